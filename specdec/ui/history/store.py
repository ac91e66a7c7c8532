"""The store behind the pages, one per database for a server, and the runs a tab looks at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import streamlit as st

from specdec.drafters.recall import Recall
from specdec.runs.run import Run
from specdec.saved.database import default_location
from specdec.saved.postgres import ANSWER_TIMEOUT_S, while_waiting
from specdec.saved.rows import StoredRun
from specdec.saved.store import RunStore

MAX_OPEN_RUNS = 16
"""How many whole runs a tab keeps in memory."""
NOTICED_S = 0.5


@lru_cache(maxsize=4)
def _store_at(location: str) -> RunStore:
    return RunStore(location)


def run_store() -> RunStore:
    """Return the store that `SPECDEC_DB` names; callable from any thread.

    Raises:
        SettingsError: `.env`, which may name it, cannot be read.
        StoreError: it cannot be opened.
    """
    return _store_at(default_location())


@contextmanager
def showing_waits() -> Iterator[None]:
    """Say that a database is waited for; a visitor who goes elsewhere ends the wait."""
    place = st.empty()

    def look_up(waited_s: float) -> None:
        if waited_s > NOTICED_S:
            place.info(
                f"Waiting for the database, {waited_s:.0f} s so far; after {ANSWER_TIMEOUT_S:.0f} "
                "seconds without an answer this page gives up. You may leave it."
            )

    try:
        with while_waiting(look_up):
            yield
    finally:
        place.empty()


def recall(prompt: str) -> Recall:
    """Return what finds the answers that saved runs gave to `prompt`."""
    return lambda prompt_ids: run_store().answers(prompt, prompt_ids)


def save_run(run: Run) -> None:
    """Keep a run that is over, however it ended.

    Raises:
        SettingsError: `.env`, which may name the store, cannot be read.
        StoreError: it cannot be written.
    """
    run_store().save(run)


def load_run(store: RunStore, line: StoredRun) -> Run:
    """Return the whole run of a line of the list, with the words the line has.

    Raises:
        StoreError: it was deleted meanwhile, or is damaged.
    """
    runs: OrderedDict[tuple[str, int], Run] = st.session_state.setdefault(
        "history_runs", OrderedDict()
    )
    key = (store.location, line.id)
    if key not in runs:
        runs[key] = store.load(line.id)
    runs.move_to_end(key)
    while len(runs) > MAX_OPEN_RUNS:
        runs.popitem(last=False)
    return replace(runs[key], title=line.title, note=line.note, tags=line.tags)
