"""Run, progress, stop: the sweep of the plan on the page, or the one that is going on elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from specdec.errors import SettingsError, StoreError
from specdec.lab.plan import Plan
from specdec.lab.plan_file import write_plan
from specdec.lab.predict import Check, Predictor, completed
from specdec.lab.results import Measured, Results
from specdec.lab.runner import SweepRunner
from specdec.lab.session import LiveSweep
from specdec.live.shelf import ModelShelf
from specdec.saved.store import RunStore
from specdec.saved.sweeps import Sweep, delete_sweep, measured_cells, usual_tokens_per_s
from specdec.ui import loaders
from specdec.ui.lab.editor import open_plan, plan_text
from specdec.ui.notice import count_of_runs, tell
from specdec.view import lab_words, words

REDRAW_S = 1.5
MAX_FAILURES = 5


Rest = tuple[int, int, float | None]


@dataclass
class Seen:
    """What this tab knows of the sweep of its plan, of which `num_stored` cells were loaded."""

    digest: str
    results: Results
    predicts: bool
    num_stored: int
    whole: Results | None = None
    checks: list[Check] = field(default_factory=list)
    num_seen: int = -1
    rest: tuple[tuple[Plan, int], Rest] | None = None

    def take(self, cells: list[Measured]) -> None:
        """Take in what was measured since."""
        for one in tuple(cells):  # workers of a cluster end in any order
            if one.key not in self.results.keys:
                self.results.add(one)

    def complete(self, plan: Plan) -> tuple[Results, list[Check]]:
        """Return the results with what the plan predicts, worked out when cells were added."""
        known = len(self.results.cells)
        if self.whole is None or known != self.num_seen:
            self.whole, self.num_seen = completed(plan, self.results), known
            predictor = Predictor(plan, self.results.cells)
            self.checks = predictor.checks() if plan.predicts else []
        return self.whole, self.checks


def live_sweep(plan: Plan) -> LiveSweep | None:
    """Return the sweep of this plan that goes on, or went on last, in this server."""
    current = loaders.sweep_desk().current
    return current if current is not None and current.plan.digest == plan.digest else None


def what_is_seen(store: RunStore, plan: Plan, sweep: Sweep | None) -> Seen:
    """Return all that is measured of a plan: loaded when the store has more or less than before.

    What goes on in this server is only added to.

    Raises:
        StoreError: the store cannot be read.
    """
    live = live_sweep(plan)
    is_alive = live is not None and live.is_alive
    seen: Seen | None = st.session_state.get("lab_seen")
    num_stored = 0 if sweep is None else sweep.num_cells
    is_behind = seen is not None and not is_alive and seen.num_stored != num_stored
    if seen is None or (seen.digest, seen.predicts) != (plan.digest, plan.predicts) or is_behind:
        cells = [] if sweep is None else measured_cells(store, sweep.id)
        results = Results(plan.arms, map(Measured.of_cell, cells))
        seen = Seen(plan.digest, results, plan.predicts, num_stored)
        st.session_state.lab_seen = seen
    if live is not None and is_alive:
        seen.take(live.measured)
    return seen


def draw_meaning(store: RunStore, plan: Plan, seen: Seen) -> int:
    """Say what the plan means and how long it will take; return how many cells are left."""
    known = (plan, len(seen.results.cells))
    if seen.rest is None or seen.rest[0] != known:
        seen.rest = (known, _rest(store, plan, seen.results))
    rest = seen.rest[1]
    said = f"{lab_words.meaning(plan)} {lab_words.left(*rest)}"
    st.caption(words.plain(said))
    return rest[0]


def _rest(store: RunStore, plan: Plan, results: Results) -> Rest:
    """Return how many cells are left, how many are left out, and the seconds of the former."""
    runner = SweepRunner(plan, results, lambda cell, run: None)
    num_left = len(runner.cells())
    num_left_out = runner.num_planned - runner.num_done - num_left
    return num_left, num_left_out, runner.estimate_s(usual_tokens_per_s(store, plan.target))


def draw_buttons(
    store: RunStore, plan: Plan, shelf: ModelShelf, num_left: int, sweep: Sweep | None
) -> None:
    """Draw Run, Stop and Delete; whose sweep is going on is said beside."""
    current = loaders.sweep_desk().current
    is_alive = current is not None and current.is_alive
    with st.container(horizontal=True, vertical_alignment="center", key="lab_buttons"):
        if st.button(
            "Go on" if sweep is not None and sweep.num_cells else "Run",
            type="primary",
            icon=":material/play_arrow:",
            key="lab_run",
            disabled=is_alive or not num_left,
            help="Measures what is not measured yet; it goes on when this tab is closed.",
        ):
            _start(store, plan, shelf, num_left)
        st.button(
            "Stop",
            icon=":material/stop:",
            key="lab_stop",
            on_click=stop,
            disabled=not is_alive,
            help="Keeps every cell that is measured; Go on begins with the next one.",
        )
        if current is not None and is_alive and live_sweep(plan) is None:
            st.button(
                "Show the sweep that is going on",
                icon=":material/visibility:",
                key="lab_show",
                on_click=open_plan,
                args=(write_plan(current.plan),),
            )
        if sweep is not None and not (is_alive and live_sweep(plan) is not None):
            _draw_delete(store, sweep)


def _draw_delete(store: RunStore, sweep: Sweep) -> None:
    """Offer to delete the sweep of this plan, once it is said what goes with it."""
    with st.popover("Delete", icon=":material/delete:", key="lab_delete_box"):
        runs = count_of_runs(sweep.num_cells)
        st.caption(
            words.plain(f"Sweep {sweep.id} and all that it measured: {runs}. The plan stays here.")
        )
        st.button(
            f"Delete {runs}",
            icon=":material/delete:",
            key="lab_delete",
            on_click=_delete,
            args=(store, sweep.id),
        )


def _delete(store: RunStore, sweep_id: int) -> None:
    try:
        delete_sweep(store, sweep_id)
    except StoreError as error:
        tell("error", str(error))


def stop() -> None:
    current = loaders.sweep_desk().current
    if current is not None:
        current.stop()
        current.join(2.0)


def _start(store: RunStore, plan: Plan, shelf: ModelShelf, num_left: int) -> None:
    sweep = LiveSweep(store, plan, plan_text(), shelf.await_model, num_left)
    try:
        loaders.sweep_desk().start(sweep)
    except SettingsError as error:
        st.warning(words.plain(str(error)), icon=":material/info:")
        return
    st.rerun()


def draw_progress(live: LiveSweep, shelf: ModelShelf) -> None:
    """Draw how far the sweep is, in a place of one height, and what went wrong."""
    progress = live.progress
    if live.is_alive:
        st.progress(
            0.0 if progress is None else progress.done / max(1, progress.total),
            text=words.plain(_state(live, shelf)),
        )
    if progress is not None and progress.is_busy:
        st.warning(words.plain(lab_words.BUSY), icon=":material/speed:")
    if live.error:
        st.error(words.plain(live.error), icon=":material/error:")
    if live.failures:
        count = len(live.failures)
        shown = " ".join(dict.fromkeys(live.failures[-MAX_FAILURES:]))
        st.warning(
            words.plain(f"{count} cells could not be measured and will be tried again: {shown}"),
            icon=":material/info:",
        )


def _state(live: LiveSweep, shelf: ModelShelf) -> str:
    if live.is_stopping:
        return "Stopping"
    if live.progress is None:
        arrival = shelf.arrival(live.plan.target, live.plan.backend)
        return arrival.what if arrival else "Opening the models"
    return lab_words.progress(live.progress)
