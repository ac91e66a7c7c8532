"""The stage: tree, text and dashboard in one fragment that redraws itself while a run moves.

The fragment reads lists that the pump's thread appends to. When everything is over and has been
shown, it asks for one whole run of the script, which draws the final picture and stops the timer.
"""

from __future__ import annotations

import time
from functools import partial

import streamlit as st

from specdec.live.pump import LiveRun
from specdec.runs.machine import num_cpus
from specdec.ui import dashboard, panels, study
from specdec.ui.history.files import draw_downloads
from specdec.ui.live import controls, motion
from specdec.ui.live.watch import Watch, unwatched
from specdec.view import words
from specdec.view.figures import verdict
from specdec.view.playback import (
    BEAT_S,
    CALL_WAIT_S,
    FIRST_ROUND_WAIT_S,
    REDRAW_EVERY_S,
    Show,
    live_pace_s,
)
from specdec.view.run_view import RunView
from specdec.view.steps import steps_words


def is_moving(live: LiveRun) -> bool:
    """Say whether anything is still to happen, or to be shown by itself."""
    show, recorder = controls.current_show(), live.performance.recorder
    at_end = show is None or recorder is None or show.is_at_end(recorder.frames)
    return live.is_alive or not (at_end or (show is not None and show.is_paused))


def draw(*, moving: bool, watch: Watch = unwatched) -> None:
    """Draw the run of this tab, or what there will be to see."""
    live = controls.current_run()
    if live is None:
        panels.draw_legend()
        panels.draw_welcome()
        return
    every_s = _pace_s(live) if moving else None
    st.fragment(_draw_run, run_every=every_s)(watch, every_s, final=not moving)


def _pace_s(live: LiveRun) -> float:
    """Return the seconds between redraws.

    Beats that would cost the models more than their share wait until the run is over.
    """
    if live.is_alive:
        return live_pace_s(num_cpus())
    return BEAT_S if motion.in_beats() else REDRAW_EVERY_S


def _draw_run(watch: Watch, every_s: float | None, *, final: bool) -> None:
    live, show = controls.current_run(), controls.current_show()
    if live is None:
        return
    live.page_asked(time.monotonic())
    if not final and not motion.in_beats():
        live.await_first_round(FIRST_ROUND_WAIT_S)
        live.await_call(CALL_WAIT_S)
    with watch("whole"):
        is_behind = _catch_up(live, show)
        changes = is_moving(live) if final else not is_moving(live) or _pace_s(live) != every_s
        if changes:
            st.rerun()
        view = show.view if show else RunView(str)
        panels.draw_state(live, view, is_behind=is_behind, unasked=motion.is_slow_by_itself())
        if view.rounds or is_behind or not final:  # or what went wrong is all there is to show
            _draw_scene(live, view, show, watch, final=final, is_behind=is_behind)


def _catch_up(live: LiveRun, show: Show | None) -> bool:
    """Show what is due by now; say whether the run is ahead of what is shown."""
    made = live.performance
    if show is None or made.recorder is None:
        return False
    frames = made.recorder.frames
    show.advance(frames, time.monotonic())
    is_behind = not show.is_at_end(frames)
    if made.phase.is_over and not is_behind:
        show.view.pending = None  # stopped or failed before the target answered
    return is_behind


def _draw_scene(
    live: LiveRun,
    view: RunView,
    show: Show | None,
    watch: Watch,
    *,
    final: bool,
    is_behind: bool,
) -> None:
    """Draw the one screen, the same while it runs and when it has ended; then what is below it."""
    made, link = live.performance, live.performance.link_kind
    panels.draw_figures(view, made.baseline, live.config.num_draft_tokens, link)
    over = final and live.run is not None
    said = verdict(live.run, link) if over and live.run and not is_behind else ""
    told = view.words if show is not None and (show.in_beats or show.is_paused) else ""
    if live.steps.has_ended:
        panels.draw_verdict(said or told)
    else:
        panels.draw_steps(live.steps.taken)
    controls.draw_transport(
        len(view.rounds), is_standing=final or (show is not None and show.is_paused)
    )
    makers = (
        partial(dashboard.gauges, view, made.baseline, link=link),
        partial(dashboard.speed, view, made.baseline, link=link),
        partial(dashboard.acceptance, view),
    )
    with watch("charts"):
        gauges, speed, acceptance = (
            [make() for make in makers] if final or show is None else show.turns.take(makers)
        )
    left, right = st.columns([7, 3], gap="medium")
    with left:
        with watch("tree"):
            _draw_tree(live, view)
        with watch("text"):
            panels.draw_text(view, made.baseline)
    with right, watch("charts"):
        dashboard.draw_column((gauges[0], *speed))
    st.caption(words.plain(words.totals(view.summary)), help=words.TOTALS_MEANING)
    if final:
        with st.container(horizontal=True, key="take_away"):
            _draw_copy(view)
            if live.run is not None:
                draw_downloads(live.run, "run")
    with watch("charts"):
        dashboard.draw_row((gauges[1], *acceptance))
    _draw_baseline(live, link)
    if final and view.rounds:
        dashboard.draw_lanes(view, link=link)
    if over and live.run is not None:
        study.draw(live.run, live.run.started_at, link=link, live=live)


def _draw_tree(live: LiveRun, view: RunView) -> None:
    if (arrival := live.arrival) is not None:
        panels.draw_arrival(arrival)
        live.progress_drawn()
    else:
        panels.draw_live_tree(view)
        live.page_drawn(time.monotonic())


def _draw_baseline(live: LiveRun, link: str) -> None:
    """Say what the speed-up was measured against, when, and what came before the first token."""
    made = live.performance
    if made.baseline is None:
        st.caption("No baseline yet.")
    else:
        st.caption(
            words.baseline_words(made.baseline, link=link),
            help="The baseline of both speed-ups: the same target, prompt and sampling as this "
            "run, nothing drafted, one call per token, with its 95 % interval. The first call of "
            "each block is not counted, because it warms caches up.",
        )
    if live.steps.has_ended and (said := steps_words(live.steps.taken)):
        st.caption(words.plain(f"Before the first token: {said}."))


def _draw_copy(view: RunView) -> None:
    with st.popover("Copy the text", icon=":material/content_copy:", key="copy"):
        st.code(view.text.plain, language=None, wrap_lines=True, height=240)
