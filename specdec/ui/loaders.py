"""What outlives a script run: the shelf of weights for all, the runs of one browser tab."""

from __future__ import annotations

import threading
from contextlib import suppress

import streamlit as st

from specdec.errors import ModelError
from specdec.lab.session import Desk
from specdec.live.pump import LiveRun
from specdec.live.shelf import ModelShelf
from specdec.models import backends
from specdec.models.compiled import numba_kernels


@st.cache_resource(show_spinner=False)
def model_shelf() -> ModelShelf:
    """Return the one shelf of this server."""
    return ModelShelf()


@st.cache_resource(show_spinner=False)
def import_kernels_early(place: str) -> None:
    """Have the kernels imported, or compiled, while the first visitor still reads the page.

    Where models run elsewhere at `place` (of `RunConfig`), nothing is.
    """

    def work() -> None:
        with suppress(ModelError):  # the run that needs them says what is wrong
            if backends.choose(place).backend == "portable":
                numba_kernels()

    threading.Thread(target=work, daemon=True, name="kernels").start()


@st.cache_resource(show_spinner=False)
def sweep_desk() -> Desk:
    """Return where this server's one sweep goes on."""
    return Desk()


class Tab:
    """The runs of one browser tab; when the tab goes, they are stopped and saved."""

    def __init__(self) -> None:
        self._runs: list[LiveRun] = []

    def hold(self, run: LiveRun) -> None:
        """Stop whatever was going on in this tab, and answer for `run` from now on."""
        self.release()
        self._runs = [run]

    def release(self) -> None:
        """Stop what is going on; the pump saves what there is."""
        for run in self._runs:
            run.stop()


@st.cache_resource(scope="session", on_release=Tab.release, show_spinner=False)
def this_tab() -> Tab:
    """Return the tab this script run belongs to."""
    return Tab()
