"""What the last action on saved runs came to, said once, and the way back from a deletion."""

from __future__ import annotations

from collections.abc import Callable, Collection

import streamlit as st

from specdec.errors import SpecdecError
from specdec.saved.store import RunStore
from specdec.view import words

Then = Callable[[Collection[int]], None]
"""Told the numbers of the runs that were brought back."""


def tell(kind: str, sentence: str) -> None:
    """Show a sentence, an "error" or a "success", when the page is drawn next."""
    st.session_state.notice = (kind, sentence)


def draw(store: RunStore, then: Then = lambda run_ids: None) -> None:
    """Say once what the last action came to, and offer to undo a deletion."""
    kind, sentence = st.session_state.pop("notice", ("", ""))
    if kind == "error":
        st.error(words.plain(sentence), icon=":material/error:")
    elif kind:
        st.success(words.plain(sentence), icon=":material/check_circle:")
    if deleted := store.last_deleted():
        with st.container(horizontal=True, vertical_alignment="center", key="undo_bar"):
            st.caption(f"{count_of_runs(len(deleted))} deleted; this can be undone for a day.")
            st.button(
                "Undo",
                icon=":material/undo:",
                key="undo",
                on_click=_undo,
                args=(store, deleted, then),
            )


def count_of_runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"


def _undo(store: RunStore, run_ids: list[int], then: Then) -> None:
    try:
        store.restore(run_ids)
    except SpecdecError as error:
        tell("error", str(error))
    else:
        then(run_ids)
