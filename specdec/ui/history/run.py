"""One saved run: its figures, what it was made with, its files, and its replay."""

from __future__ import annotations

from html import escape

import pandas as pd
import streamlit as st

from specdec.runs.compare import KPIS, describe_settings
from specdec.runs.run import Run
from specdec.runs.speedup import speedup_of
from specdec.saved.rows import StoredRun
from specdec.saved.store import RunStore
from specdec.ui.history import replay as history_replay
from specdec.ui.history.compare import text_html
from specdec.ui.history.files import draw_downloads
from specdec.ui.history.list import draw_delete, draw_words
from specdec.ui.history.store import load_run
from specdec.ui.kept import address_of
from specdec.view import words
from specdec.view.history_words import figure_of, heading, setting_word, shown_value

LONG_PROMPT_CHARS = 2000
_WAYS_BACK = {
    False: "The live page with the settings and the prompt that this run began with.",
    True: "The same, and the run begins at once.",
}


def draw(store: RunStore, line: StoredRun) -> None:
    """Draw everything about the run of one line of the list.

    Raises:
        StoreError: it was deleted meanwhile, or is damaged.
    """
    run = load_run(store, line)
    st.html(f'<h4 class="run-name">#{line.id} {escape(heading(line))}</h4>')
    with st.container(horizontal=True, key="actions"):
        _draw_way_back(run)
        draw_downloads(run, f"run-{line.id}")
        draw_words(store, line)
        draw_delete(store, [line])
    _draw_ending(run)
    _draw_figures(run)
    if run.rounds:
        player = history_replay.player_for(run, (store.location, line.id))
        history_replay.draw(player, f"run_{line.id}")
    else:
        _draw_without_rounds(run)
    with st.expander("Prompt, configuration and machine"):
        _draw_prompt(run)
        rows = [
            {"Setting": setting_word(name), "Value": shown_value(value)}
            for name, value in describe_settings(run).items()
            if name not in ("prompt", "prompt_ids")
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True)


def _draw_way_back(run: Run) -> None:
    """Offer the live page with the settings and the prompt of a run, standing or running."""
    if run.config is None:
        return
    for label, icon, again in (
        ("Open in Live", ":material/open_in_new:", False),
        ("Run again", ":material/play_arrow:", True),
    ):
        key = "run_again" if again else "open_in_live"
        if st.button(label, icon=icon, key=f"{key}_button", help=_WAYS_BACK[again]):
            st.session_state.run_again = again
            st.switch_page("streamlit_app.py", query_params=address_of(run.config, run.prompt))


def _draw_ending(run: Run) -> None:
    if run.summary.error:
        st.error(words.plain(run.summary.error), icon=":material/error:")
    if run.note:
        st.html(f'<p class="run-note">{escape(run.note)}</p>')
    changes = "; ".join(
        f"from round {one.round + 1} on {words.settings_words(one.now)}" for one in run.changes
    )
    said = f"Changed while it ran: {changes}." if changes else ""
    st.caption(words.plain(f"Ended: {words.ending(run.summary)}. {said}".strip()))


def _draw_figures(run: Run) -> None:
    with st.container(horizontal=True, key="figures"):
        for kpi in KPIS:
            if kpi.value(run) is not None:
                said, _, interval = figure_of(kpi, run).partition(" (")
                st.metric(
                    kpi.label,
                    f"{said} ×" if interval else said,
                    f"95 %: {interval.removesuffix(') ×')}" if interval else None,
                    delta_color="off",
                    delta_arrow="off",
                    width=172,
                    help=kpi.meaning,
                )
    found = speedup_of(run)
    if found is not None and found.disturbance:
        st.warning(words.plain(found.disturbance), icon=":material/speed:")


def _draw_without_rounds(run: Run) -> None:
    if run.is_summary_only:
        st.info("Another program wrote these totals; it did not say what happened in each round.")
    else:
        st.info("This run ended before its first round, so there is nothing to play back.")
    if run.text:
        st.html(text_html(run.text))


def _draw_prompt(run: Run) -> None:
    shown = run.prompt[:LONG_PROMPT_CHARS]
    rest = len(run.prompt) - len(shown)
    st.html(text_html(shown or "(not known)"))
    if rest:
        st.caption(f"and {rest:,} characters more, which are in the trace.")
