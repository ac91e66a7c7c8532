"""Runs as files: what a run can be taken away as, and what can be taken in."""

from __future__ import annotations

from functools import partial

import streamlit as st

from specdec.errors import SpecdecError
from specdec.runs.run import Run
from specdec.saved.exports import EXPORTS, read_run
from specdec.saved.store import RunStore
from specdec.ui.history.list import choose
from specdec.ui.notice import tell


def draw_downloads(run: Run, name: str) -> None:
    """Offer every kind of file that can be made of `run`, each made when it is asked for."""
    with st.popover("Download", icon=":material/download:", key=f"download_{name}"):
        for export in EXPORTS:
            if run.rounds or not export.needs_rounds:
                st.download_button(
                    export.label,
                    partial(export.make, run),
                    file_name=f"{name}{export.suffix}",
                    mime=export.mime,
                    key=f"download_{export.name}",
                    on_click="ignore",
                    width="stretch",
                )


def draw_import(store: RunStore) -> None:
    """Offer to take files in: all that were chosen, or none of them."""
    with (
        st.popover("Import", icon=":material/upload:", key="import"),
        st.form("import_form", clear_on_submit=True, border=False),
    ):
        files = st.file_uploader(
            "Traces of runs, or responses of vLLM with its totals",
            ["jsonl", "json"],
            accept_multiple_files=True,
            key="import_files",
            help="A trace (.jsonl) was downloaded here or written by the command line. vLLM puts "
            "metrics.speculative_decoding into a response when it is started with "
            "--per-request-spec-decode-metrics.",
        )
        submitted = st.form_submit_button("Import", key="import_submit")
    if submitted and files:
        _take_in(store, [(file.name, file.getvalue()) for file in files])
        st.rerun()


def _take_in(store: RunStore, files: list[tuple[str, bytes]]) -> None:
    try:
        runs = [read_run(data, name=name) for name, data in files]
        choose([store.save(run) for run in runs])
    except SpecdecError as error:
        tell("error", f"Nothing was imported. {error}")
    else:
        count = "One run was" if len(runs) == 1 else f"{len(runs)} runs were"
        tell("success", f"{count} imported; filters may hide what you imported.")
