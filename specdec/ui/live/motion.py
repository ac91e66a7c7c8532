"""How events are shown: as chosen, or a visitor's first run in slow motion by itself.

What is chosen stands in the address (`?motion=Live`). Where nothing was, the first run of a session
is shown slowly, so that the idea is seen, and every later one live. A run is made at its own speed
however it is shown.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from specdec.ui.live.presets import LIVE, MOTIONS, SLOW

NAME = "motion"


def draw_choice(on_change: Callable[[], None]) -> None:
    """Draw the choice; `on_change` hears of a new one."""
    st.session_state.setdefault(NAME, st.query_params[NAME] if _is_chosen() else LIVE)
    st.segmented_control(
        "Motion",
        MOTIONS,
        key=NAME,
        required=True,
        label_visibility="collapsed",
        on_change=_choose,
        args=(on_change,),
        persist_state="session",
        help="Live: as it happens. Slow motion: in even beats, one thing after the other. "
        "Step: a beat at each press of an arrow key. The run itself is never slowed down.",
    )


def current() -> str:
    """Return how events are shown now."""
    motion: str = st.session_state.get(NAME) or LIVE
    return motion


def in_beats() -> bool:
    """Say whether the picture goes by beats of its own and not by the engine's clock."""
    return current() != LIVE


def begin_run(*, is_first: bool) -> None:
    """Show the run that begins as chosen; where nothing was, only the first one slowly."""
    if not _is_chosen():
        st.session_state[NAME] = SLOW if is_first else LIVE


def is_slow_by_itself() -> bool:
    """Say whether nobody asked for the slow motion."""
    return current() == SLOW and not _is_chosen()


def end_slow_by_itself() -> None:
    """Leave the slow motion that nobody asked for."""
    if is_slow_by_itself():
        st.session_state[NAME] = LIVE


def _is_chosen() -> bool:
    return st.query_params.get(NAME) in MOTIONS


def _choose(on_change: Callable[[], None]) -> None:
    st.query_params[NAME] = st.session_state[NAME]
    on_change()
