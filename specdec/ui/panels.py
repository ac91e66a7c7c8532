"""The parts of the live page, each drawn from a `RunView` that somebody else keeps up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from specdec.live.pump import LiveRun
from specdec.live.shelf import Arrival
from specdec.metrics import Baseline
from specdec.perform import Phase
from specdec.records import TokenStatus
from specdec.runs.speedup import measure_speedup
from specdec.runs.steps import Taken
from specdec.ui import kept
from specdec.ui.tree_page import tree_component
from specdec.view import figures, pace, steps, words
from specdec.view.chips import FITTING_SHARE
from specdec.view.graph import (
    INKS,
    UNKNOWN_INK,
    Ink,
    blank_above_px,
    frame_height,
    graph_config,
    graph_data,
    picture_height_px,
)
from specdec.view.palette import LOOKS
from specdec.view.run_view import RunView
from specdec.view.scene_style import SCENE_STYLE
from specdec.view.text import STYLE
from specdec.view.tree import Picture
from specdec.view.window import live_picture

ICON = Path(__file__).parent / "icon.png"
TREE_HEIGHT_PX = 220
TEXT_HEIGHT_PX = 150


def draw_style() -> None:
    """Send the page's one style sheet."""
    st.html(f"<style>{STYLE}{figures.STYLE}{pace.STYLE}{SCENE_STYLE}{steps.STYLE}</style>")


def draw_navigation() -> None:
    """Draw the way from page to page at the top of the sidebar."""
    with st.sidebar:
        st.page_link(
            "streamlit_app.py",
            label="Live",
            icon=":material/account_tree:",
            query_params=kept.live_address(),
        )
        st.page_link(
            "pages/1_History.py",
            label="History",
            icon=":material/history:",
            query_params=kept.history_address(),
        )
        st.page_link("pages/2_Lab.py", label="Lab", icon=":material/science:")


def _ink() -> Ink:
    """Return the colours of the visitor's theme."""
    return INKS.get(st.context.theme.type or "", UNKNOWN_INK)


BOX_MEANING = (
    "In the tree: the higher a box, the larger the entropy of the target's distribution at its "
    "place; the stronger its colour, the likelier it was to be accepted."
)


def _legend() -> str:
    signs = (
        f'<span class="sign" title="{escape(look.meaning)}" tabindex="0">'
        f'<span style="color:{look.color}">{look.glyph}</span> {status}</span>'
        for status, look in LOOKS.items()
    )
    box = f'<span class="sign" title="{escape(BOX_MEANING)}" tabindex="0">↕ unsure</span>'
    return "".join((*signs, box))


def draw_legend() -> None:
    """Explain the six signs in one line; each has its definition as a tooltip."""
    st.html(f'<div class="legend">{_legend()}</div>')


def draw_state(live: LiveRun, view: RunView, *, is_behind: bool, unasked: bool = False) -> None:
    """Draw in one line what is going on, and the legend.

    Where the picture `is_behind` the run, what is being shown of it; where nobody asked for that,
    say so first.
    """
    phase = live.performance.phase
    now = words.state_word(phase, is_comparing=live.is_comparing)
    color, word = words.shown_state(view) if is_behind else now
    details = []
    if view.rounds:
        details.append(f"round {len(view.rounds)}, {view.text.num_tokens} tokens")
    if is_behind:
        over = "is over" if phase.is_over else "is ahead"
        how = "first run, in slow motion" if unasked else "shown slowly"
        details.insert(0 if unasked else 1, f"{how}; the run itself {over}")
    elif live.run is not None and phase is not Phase.FAILED:
        details.append(words.ending(live.run.summary))
    if phase is Phase.BASELINE:
        details.append("a few tokens by plain decoding, to compare with")
    said = escape(" · ".join(details))
    st.html(
        f'<div class="status"><span class="state {color}">{escape(word)}</span>'
        f'<span class="details" title="{said}">{said}</span>'
        f'<span class="legend">{_legend()}</span></div>'
    )
    if live.error:
        st.error(words.plain(live.error), icon=":material/error:")
    if live.waiting and not phase.is_over:
        st.warning(words.plain(live.waiting), icon=":material/hourglass_top:")
    if live.notice:
        st.warning(words.plain(live.notice), icon=":material/info:")


def draw_figures(
    view: RunView, baseline: Baseline | None, num_draft_tokens: int, link: str
) -> None:
    """Draw the figures that matter, large."""
    depth = max((result.depth for result in view.rounds), default=num_draft_tokens)
    speedup = measure_speedup(view.rounds, view.summary, baseline)
    strip = figures.figures(view.summary, speedup, max_tokens_per_call=depth + 1, link=link)
    st.html(figures.figures_html(strip))


def draw_verdict(said: str) -> None:
    """Say in a line that is there from the start what is happening, or what came of it."""
    st.html(f'<div class="verdict" title="{escape(said)}"><span>{escape(said)}</span></div>')


def draw_steps(taken: Sequence[Taken]) -> None:
    """Say in that same line what is being done before the first token, and since when."""
    st.html(steps.steps_html(taken))


def draw_arrival(arrival: Arrival) -> None:
    """Say, where the tree will be, how far the weights are."""
    with _tree_box():
        st.progress(arrival.fraction or 0.0, text=words.plain(arrival.what))


def _tree_box() -> DeltaGenerator:
    return st.container(key="live_tree", height=TREE_HEIGHT_PX + 16, border=False)


def draw_live_tree(view: RunView) -> None:
    """Draw the window of the last rounds, updated in place."""
    picture = live_picture(
        view.rounds, view.pending, view.text_of, whole=view.whole, has_fallen=view.has_fallen
    )
    with _tree_box():
        # A draft of many lanes frames a higher picture, and the view is fitted at mount only.
        height = frame_height(picture, TREE_HEIGHT_PX)
        _draw_graph(picture, TREE_HEIGHT_PX, f"live_graph_{height}")


def _draw_graph(picture: Picture, height_px: int, key: str, *, clickable: bool = False) -> object:
    return tree_component()(
        data=graph_data(
            picture,
            _ink(),
            height_px=None if clickable else height_px,
            clickable=clickable,
            by_entropy=st.session_state.get("by_entropy", True),
            by_acceptance=st.session_state.get("by_acceptance", True),
        ),
        config=graph_config(picture, height_px, clickable=clickable),
        key=key,
    )


def draw_final_tree(picture: Picture, key: str) -> str | None:
    """Draw a wrapped picture that does not change any more; return the id of a clicked node.

    Its text is as large as anywhere: where there is less room than it takes, it can be scrolled.
    """
    width_px = round(FITTING_SHARE * picture.width)
    height_px = picture_height_px(picture, width_px)
    blank_px = blank_above_px(height_px)
    seen_px = height_px - 2 * blank_px
    with st.container(height=min(seen_px + 20, 560), border=False, key="final_tree"):
        st.html(
            "<style>.st-key-final_tree {overflow-x: auto} .st-key-final_tree iframe"
            f" {{min-width: {width_px}px; margin: -{blank_px}px 0}}</style>"
        )
        clicked = _draw_graph(picture, height_px, key, clickable=True)
    return clicked if isinstance(clicked, str) else None


def draw_text(view: RunView, baseline: Baseline | None) -> None:
    """Draw the answer so far, and where plain decoding would be by now."""
    with st.container(key="answer", border=True, gap=None):
        _draw_chunks(view, "answer_text", TEXT_HEIGHT_PX, border=False)
        st.html(pace.pace_html(pace.plain_pace(view, baseline), view.text))


def draw_race_text(view: RunView, key: str, height_px: int) -> None:
    """Draw a text in its colours, without the facts of its tokens."""
    _draw_chunks(view, key, height_px, border=True)


@dataclass(frozen=True, slots=True)
class _Exactly:
    """HTML for `st.html` as it is: given a string, it would tidy white space up."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def _draw_chunks(view: RunView, key: str, height_px: int, *, border: bool) -> None:
    with st.container(key=key, height=height_px, border=border, autoscroll=True):
        for chunk in (*view.text.chunks, view.text.tail(view.pending) or "<span></span>"):
            st.html(_Exactly(chunk))


def draw_welcome() -> None:
    """Say what will be seen here, before the first run."""
    signs = {status: f"{look.glyph} {status}" for status, look in LOOKS.items()}
    steps = {
        "1. The draft proposes": "A small model, or a rule, cheaply proposes the next few tokens: "
        f"they are {signs[TokenStatus.PENDING]}.",
        "2. The target checks": "The model whose answer you want scores them all in one call. Each "
        f"is {signs[TokenStatus.ACCEPTED]} or {signs[TokenStatus.REJECTED]}; after a rejection, "
        f"the rest is {signs[TokenStatus.DISCARDED]}.",
        "3. The text grows": "The target adds one token of its own, "
        f"{signs[TokenStatus.RESAMPLED]} after a rejection or {signs[TokenStatus.BONUS]} after a "
        "fully accepted draft. Then the next round begins.",
    }
    for column, (title, explanation) in zip(st.columns(3), steps.items(), strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{title}**")
            st.markdown(explanation)
    st.caption(
        "The text follows the target's distribution exactly, whatever the draft proposes; only the "
        "time it takes changes. Everything on this page is measured on a real model while it runs, "
        "or says that it is predicted or emulated. Press Generate to answer the prompt above."
    )
