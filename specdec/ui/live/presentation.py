"""Presentation: the stage alone, in type that a room can read; a switch, and `?present=1`."""

from __future__ import annotations

import streamlit as st

from specdec.view.scene_style import PRESENTATION_STYLE

_NAME = "present"


def draw_switch() -> None:
    """Draw the switch, and what it changes of the page's looks."""
    st.session_state.setdefault(_NAME, st.query_params.get(_NAME) == "1")
    is_on = st.toggle(
        "Present",
        key=_NAME,
        on_change=_tell_address,
        persist_state="session",
        help="For a room: no sidebar, no question marks, large type. In the address: ?present=1.",
    )
    if is_on:
        st.html(f"<style>{PRESENTATION_STYLE}</style>")


def _tell_address() -> None:
    if st.session_state[_NAME]:
        st.query_params[_NAME] = "1"
    elif _NAME in st.query_params:
        del st.query_params[_NAME]
