"""What the lab says in words: plans, progress, arms."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.lab.plan import Plan
from specdec.lab.predict import cells_to_measure
from specdec.lab.runner import Progress

BUSY = (
    "The machine is busy: plain decoding was much slower just now than before in this sweep. "
    "Acceptance is not touched by that, times are."
)


def meaning(plan: Plan) -> str:
    """Say what a plan will measure."""
    kinds = len({prompt.kind for prompt in plan.prompts})
    seeds = f" × {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else ""
    return (
        f"{plan.num_cells:,} cells: {_count(len(plan.prompts), 'prompt')} "
        f"({_count(kinds, 'class', 'classes')}) × {_count(len(plan.arms), 'arm')} × temperature "
        f"{listed(plan.temperatures)} × round trip {listed(plan.rtt_ms)} ms{seeds}, on "
        f"{plan.target}.{_predicted(plan)}"
    )


def _predicted(plan: Plan) -> str:
    if not plan.predicts:
        return ""
    return f" {len(cells_to_measure(plan)):,} of them are run, the others predicted."


def left(num_left: int, num_left_out: int, seconds: float | None) -> str:
    """Say how much is left to measure, how much is left out, and how long the rest will take."""
    said = _rest(num_left, seconds)
    if num_left_out > 0:
        said += f" {num_left_out:,} are left out: the fastest arm there is beyond doubt."
    return said


def _rest(num_left: int, seconds: float | None) -> str:
    if not num_left:
        return "All that is to be run is measured."
    if seconds is None:
        return f"{num_left:,} are left; how long that takes is known after the first ones."
    return f"{num_left:,} are left, about {duration(seconds)}."


def progress(now: Progress) -> str:
    """Say how far a sweep is."""
    rest = "" if now.left_s is None else f", about {duration(now.left_s)} left"
    return f"{now.done:,} of {now.total:,} cells{rest}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
