"""The live page in AppTest, with toy models on its shelf and everything else real."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from specdec.live import handshake
from specdec.ui import loaders
from specdec.ui.history.store import run_store
from specdec.ui.live import presets
from tests.live.toys import SkippingToy, toy_shelf

ENTRY = Path(__file__).parents[2] / "streamlit_app.py"


@pytest.fixture(autouse=True)
def own_main_module(monkeypatch):
    """AppTest makes the script `__main__`; left there, every process started later would run it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def no_browser_to_wait_for(monkeypatch):
    monkeypatch.setattr(handshake, "PAGE_WAIT_S", 0.0)


@pytest.fixture
def model():
    return SkippingToy()


@pytest.fixture
def shelf(tmp_path, model):
    return toy_shelf(tmp_path, model)


@pytest.fixture
def first_visit(monkeypatch, shelf, tmp_path):
    """Return the page as it opens for a visitor, not run yet."""
    st.cache_resource.clear()
    st.cache_data.clear()
    monkeypatch.setattr(loaders, "model_shelf", lambda: shelf)
    monkeypatch.setenv("TARGET_MODEL", "toy")
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    app = AppTest.from_file(str(ENTRY), default_timeout=30)
    yield app
    if "live" in app.session_state and app.session_state.live:
        app.session_state.live.stop()
        app.session_state.live.join(10)


@pytest.fixture
def page(monkeypatch, first_visit):
    """Return the page, not run yet: as `.env` has it, without recipe, and shown live."""
    monkeypatch.setattr(presets, "opening", lambda defaults: defaults)
    first_visit.query_params["motion"] = presets.LIVE
    return first_visit


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return an empty store, which is the one the page opens."""
    st.cache_resource.clear()
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    opened = run_store()
    yield opened
    opened.close()
