"""streamlit-agraph with what its options do not reach: one tooltip face, and no double click.

Its page opens a new tab at a node's tooltip on a double click, and throws where there is no node;
tooltips stand in a face and in colours of their own. The package's page is copied once per process,
with these lines changed, and served in place of the original.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import streamlit.components.v1 as components
import streamlit_agraph

_STYLE = """<style>
.vis-tooltip {font: 14px/1.4 "Source Sans", "Source Sans 3", system-ui, sans-serif !important;
  background: #1f2937 !important; color: #f9fafb !important; border-color: #808495 !important;
  padding: 8px 12px !important}
</style></head>"""
_DOUBLE_CLICK, _NOTHING = ".div.innerHTML;t&&window.open(t)", ";"


@cache
def tree_component() -> Callable[..., object]:
    """Return the component; it takes `data` and `config` as JSON and gives the node clicked."""
    package = Path(streamlit_agraph.__file__).parent / "frontend" / "build"
    folder = Path(tempfile.mkdtemp(prefix="specdec-agraph-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns("*.map"), dirs_exist_ok=True)
    _change(folder / "index.html", "</head>", _STYLE)
    for script in (folder / "static" / "js").glob("main.*.js"):
        _change(script, _DOUBLE_CLICK, _NOTHING)
    component: Callable[..., object] = components.declare_component("agraph", path=str(folder))
    return component


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new), encoding="utf-8")
