"""The rules of the house that a test can hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import specdec
from tests.walls import WALLS, Wall, circle, is_in, read_imports

ROOT = Path(__file__).parents[1]
IMPORTS = read_imports(ROOT)
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*(ROOT / "specdec").rglob("*.py"), *(ROOT / "pages").glob("*.py")]
}


def test_every_exported_name_exists_and_the_list_is_sorted() -> None:
    assert sorted(specdec.__all__) == specdec.__all__
    assert all(hasattr(specdec, name) for name in specdec.__all__)


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.name)
def test_nothing_crosses_a_wall(wall: Wall) -> None:
    assert wall.crossings(IMPORTS) == []


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.name)
def test_a_crossing_of_each_wall_would_be_found(wall: Wall) -> None:
    """Each module inside is made to import what it must not."""
    inside = [m for m in IMPORTS if is_in(m, *wall.inside) and not is_in(m, *wall.excepted)]
    assert inside
    for module in inside:
        for forbidden in wall.forbidden:
            broken = {**IMPORTS, module: IMPORTS[module] | {forbidden}}
            assert wall.crossings(broken) == [f"{module} imports {forbidden}"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(IMPORTS) == []


def test_a_circle_would_be_found_type_checking_included(tmp_path: Path) -> None:
    package = tmp_path / "specdec"
    package.mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "streamlit_app.py").write_text("import specdec.one\n")
    (package / "__init__.py").touch()
    (package / "one.py").write_text("def late():\n    from specdec import two\n")
    (package / "two.py").write_text("from specdec.three import name\n")
    (package / "three.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from specdec.one import late\n"
    )
    found = circle(read_imports(tmp_path))
    assert found[0] == found[-1]
    assert set(found) == {"specdec.one", "specdec.two", "specdec.three"}


def test_the_package_can_be_used_without_streamlit() -> None:
    modules = [
        name
        for name in IMPORTS
        if is_in(name, "specdec")
        and not is_in(name, "specdec.ui", "specdec.__main__")
        and not name.startswith("specdec.models.mlx")
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert 'streamlit' not in sys.modules, 'streamlit was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _files_with(pattern: str) -> list[str]:
    return sorted(file for file, source in SOURCES.items() if re.search(pattern, source))


def test_nothing_sleeps_outside_the_targets() -> None:
    """No animation inside what is measured: the emulated link and retries wait, and a replay."""
    sleepers = [f for f in _files_with(r"time\.sleep\b") if "/targets/" not in f]
    assert sleepers == ["specdec/cli/files.py"]


def test_only_the_settings_touch_the_process_environment() -> None:
    """Children get the environment of the process as it is, so that one may read it."""
    readers = _files_with(r"os\.environ|getenv|putenv|load_dotenv")
    assert readers == ["specdec/models/fetch/download.py", "specdec/settings.py"]
    writes = r"os\.environ(\[[^\]]*\]\s*=|\.(setdefault|update|pop|clear))|putenv|load_dotenv"
    assert _files_with(writes) == ["specdec/settings.py"]


def test_only_the_command_line_writes_to_the_terminal() -> None:
    """And a child of ours to its parent, which reads it."""
    writers = _files_with(r"(?<![.\w])print\(|\bConsole\(|sys\.std(out|err)")
    assert [one for one in writers if not one.startswith("specdec/cli/")] == [
        "specdec/models/fetch/hub_child.py",
        "specdec/models/template_child.py",
    ]


def test_a_prompt_waits_for_nothing_that_it_does_not_need() -> None:
    """The store, conversions, the hub and PyTorch are loaded for who asks for them."""
    program = (
        "import sys, specdec.cli.main\n"
        "print({'sqlalchemy', 'gguf', 'huggingface_hub', 'torch', 'numba', 'altair'}"
        ".intersection(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
