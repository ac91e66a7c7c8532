"""The copy of streamlit-agraph's page holds what is to be mended there, wherever it came from."""

from __future__ import annotations

from pathlib import Path

from specdec.ui.tree_page import tree_component


def test_the_page_opens_no_tab_at_a_double_click_and_has_a_tooltip_of_ours():
    page = Path(tree_component().path)
    scripts = "".join(file.read_text() for file in (page / "static" / "js").glob("*.js"))
    assert "doubleClick:function" in scripts
    assert "window.open(t)" not in scripts
    assert ".vis-tooltip {font" in (page / "index.html").read_text()
    assert tree_component() is tree_component()
