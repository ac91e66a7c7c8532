"""The lab from top to bottom: sweeps, plan, run, results."""

from __future__ import annotations

import streamlit as st

from specdec.lab.plan import Plan
from specdec.lab.results import Condition
from specdec.live.shelf import ModelShelf
from specdec.saved.store import RunStore
from specdec.saved.sweeps import Sweep, list_sweeps
from specdec.ui import notice
from specdec.ui.lab import measuring, outcome
from specdec.ui.lab.editor import draw_editor, open_plan
from specdec.ui.lab.measuring import Seen


def draw(store: RunStore, shelf: ModelShelf) -> None:
    """Draw the page.

    Raises:
        StoreError: the store cannot be read.
        SettingsError: `.env` cannot be used.
    """
    notice.draw(store)
    sweeps = list_sweeps(store)
    if sweeps:
        _draw_sweeps(sweeps)
    plan = draw_editor(store)
    if plan is None:
        return
    sweep = next((one for one in sweeps if one.digest == plan.digest), None)
    seen = measuring.what_is_seen(store, plan, sweep)
    num_left = measuring.draw_meaning(store, plan, seen)
    measuring.draw_buttons(store, plan, shelf, num_left, sweep)
    has_begun = bool(seen.results.cells)
    live = measuring.live_sweep(plan)
    is_alive = live is not None and live.is_alive
    every_s = measuring.REDRAW_S if is_alive else None
    if not (has_begun or is_alive):
        st.caption("Nothing of this plan is measured yet. Run measures it.")
        return
    condition = outcome.choose_condition(plan)
    st.fragment(_draw_results, run_every=every_s)(plan, shelf, seen, condition, is_alive)
    if not is_alive:
        outcome.draw_prompts(store, plan, seen.complete(plan)[0], condition)
        outcome.draw_downloads(store, plan, seen.results)


def _draw_sweeps(sweeps: list[Sweep]) -> None:
    """Offer the sweeps of the store; one that is chosen comes into the editor."""
    by_id = {one.id: one for one in sweeps}
    st.selectbox(
        "Open a sweep",
        list(by_id),
        None,
        format_func=lambda number: _heading(by_id[number]),
        placeholder=f"{len(sweeps):,} in the store",
        key="lab_sweep",
        on_change=lambda: _open(by_id),
    )


def _heading(sweep: Sweep) -> str:
    day = sweep.started_at[:16].replace("T", " ")
    return f"#{sweep.id} {sweep.name or 'without a name'} · {day} UTC · {sweep.num_cells:,} cells"


def _open(by_id: dict[int, Sweep]) -> None:
    chosen = by_id.get(st.session_state.lab_sweep)
    if chosen is not None:
        open_plan(chosen.plan)


def _draw_results(
    plan: Plan, shelf: ModelShelf, seen: Seen, condition: Condition, was_alive: bool
) -> None:
    """Draw progress and results; once the sweep is over, the whole page learns of it."""
    live = measuring.live_sweep(plan)
    if was_alive and (live is None or not live.is_alive):
        st.rerun()
    if live is not None:
        measuring.draw_progress(live, shelf)
    if live is not None and was_alive:
        seen.take(live.measured)
    outcome.draw(plan, *seen.complete(plan), condition)
