"""The rules of the house that a test can hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import specdec

ROOT = Path(__file__).parents[1]


def test_every_exported_name_exists_and_the_list_is_sorted() -> None:
    assert sorted(specdec.__all__) == specdec.__all__
    assert all(hasattr(specdec, name) for name in specdec.__all__)


def test_only_the_ui_subpackage_imports_streamlit() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "specdec").rglob("*.py"))
        if "ui" not in path.parts and not path.name.startswith("__") and path.stem != "mlx"
    ]
    modules = [name for name in modules if not name.startswith("specdec.models.mlx")]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert 'streamlit' not in sys.modules, 'streamlit was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_sleeps_outside_the_targets() -> None:
    """No animation inside what is measured: the emulated link and retries wait, and a replay."""
    sleepers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "specdec").rglob("*.py")
        if "time.sleep" in path.read_text(encoding="utf-8") and "targets" not in path.parts
    ]
    assert sleepers == ["specdec/cli/files.py"]
