"""What all visitors of a server share."""

from __future__ import annotations

import threading

import streamlit as st

from specdec.errors import ModelError
from specdec.ui import loaders


def test_the_kernels_are_imported_once_and_what_is_wrong_with_them_waits_for_a_run(monkeypatch):
    calls = []

    def refuse():
        calls.append(threading.current_thread().name)
        raise ModelError("Numba cannot work as its settings stand.")

    st.cache_resource.clear()
    monkeypatch.setattr(loaders, "numba_kernels", refuse)
    monkeypatch.setattr(threading, "excepthook", lambda failed: calls.append(failed.exc_value))
    loaders.import_kernels_early("torch:cpu")  # which needs none
    for _ in range(2):
        loaders.import_kernels_early("portable")
    for thread in threading.enumerate():
        if thread.name == "kernels":
            thread.join(10)
    assert calls == ["kernels"]
    st.cache_resource.clear()
