"""A sweep while it runs: which cell comes next, how long it will take, and when it is enough.

What is compared must be measured side by side, because a machine is not the same an hour later:
cells are made in blocks of one prompt under one condition, all arms of a block after each other in
an order drawn from the plan's digest, the blocks shuffled likewise. Each arm is warmed up once, and
that run is dropped. Acceptance does not depend on what else the machine does; time does, so plain
decoding, which is in every block, is also the measure of how busy the machine is.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import TypeVar

from specdec.errors import SpecdecError
from specdec.lab.own_server import stream_run
from specdec.lab.plan import OWN_SERVER, Arm, Cell, Plan
from specdec.lab.predict import cells_to_measure
from specdec.lab.results import Condition, Measured, Results
from specdec.pair import Load, load_model
from specdec.perform import Performance
from specdec.runs.noise import has_changed
from specdec.runs.run import Run

WARM_UP_TOKENS = 8
MIN_BLOCKS = 6
"""Prompts under one condition before any of its arms may be left out."""

Keep = Callable[[Cell, Run], int | None]
"""Keeps a cell's run, and returns its number in the store where there is one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is, after each cell.

    Attributes:
        done: cells that are measured, those of earlier sittings included.
        total: cells that will be, as far as is known; those that are left out are not in it.
        left_s: estimated seconds for the rest; None before anything was timed.
        cell: the one just measured.
        failure: why it could not be measured; it counts as done, and is tried again next time.
        is_busy: whether plain decoding was just much slower than usual in this sweep.
    """

    done: int
    total: int
    left_s: float | None
    cell: Cell | None = None
    failure: str | None = None
    is_busy: bool = False


class SweepRunner:
    """The cells of one plan that are not measured yet, one by one."""

    def __init__(
        self,
        plan: Plan,
        measured: Iterable[Measured] | Results,
        keep: Keep,
        *,
        load: Load = load_model,
        look_up: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a sweep.

        Args:
            plan: what is compared.
            measured: cells of earlier sittings; as results, they are added to.
            keep: takes each cell's run the moment it is over; what it raises ends the sweep.
            load: opens models, once each.
            look_up: called all the time; what it raises ends the sweep, and the cell that is being
                measured is left as if it had not begun.
            clock: seconds, monotonic.
        """
        self.plan = plan
        if not isinstance(measured, Results):
            measured = Results(plan.arms, measured)
        self.results: Results = measured
        self._keep = keep
        self._load = lru_cache(maxsize=8)(load)
        self._look_up = look_up
        self._clock = clock
        self._timing = _Timing()
        seconds = {one.key: one.seconds for one in self.results.cells}
        self._planned = cells_to_measure(plan)
        for cell in plan.cells:
            if cell.key in seconds:
                self._timing.add_earlier(cell, seconds[cell.key])
        self._warm: set[tuple[Arm, float]] = set()

    @property
    def num_planned(self) -> int:
        """How many cells are run in all, those of earlier sittings included."""
        return len(self._planned)

    @property
    def num_done(self) -> int:
        """How many of those are measured."""
        return sum(cell.key in self.results.keys for cell in self._planned)

    def cells(self) -> list[Cell]:
        """Return what is still to be measured, in the order in which it will be."""
        return [cell for block in self._left() for cell in block]

    def _left(self) -> list[list[Cell]]:
        return self._without_decided(self._blocks())

    def estimate_s(self, usual_tokens_per_s: float | None = None) -> float | None:
        """Return seconds for what is still to be measured, None where nothing is known.

        Where no cell of this plan was timed yet, it is what plain decoding would take at the
        target's usual speed, every answer at its full length.
        """
        cells = self.cells()
        known = self._timing.estimate(cells)
        if known is not None or usual_tokens_per_s is None:
            return known
        tokens = self.plan.max_tokens
        return sum(tokens / usual_tokens_per_s + tokens * one.rtt_ms / 1e3 for one in cells)

    def _blocks(self) -> list[list[Cell]]:
        """Return the cells by prompt, condition and seed, shuffled, classes evenly mixed."""
        rng = random.Random(self.plan.digest)
        blocks: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
        for cell in self._planned:
            if cell.key not in self.results.keys:
                # Predictions of a link come from another one, so both are measured together.
                link = None if self.plan.predicts else cell.rtt_ms
                blocks[cell.prompt, cell.temperature, link, cell.seed].append(cell)
        by_kind: dict[str, list[list[Cell]]] = defaultdict(list)
        for block in blocks.values():
            rng.shuffle(block)
            by_kind[block[0].prompt.kind].append(block)
        placed = []
        for of_kind in by_kind.values():
            rng.shuffle(of_kind)
            placed += [((n + 0.5) / len(of_kind), block) for n, block in enumerate(of_kind)]
        return [block for _, block in sorted(placed, key=lambda one: one[0])]

    def run(self) -> Generator[Progress, None, None]:
        """Measure cell after cell; may be closed at any yield, and goes on from there next time.

        Raises:
            SpecdecError: the target cannot be opened, or a run cannot be kept.
        """
        began_s = self._clock()
        self._load(self.plan.target, self.plan.backend)
        left = self._left()
        done = self.num_done
        while left:
            block = left.pop(0)
            for number, cell in enumerate(block):
                if self._is_out_of_time(began_s):
                    return
                failure = self.measure(cell)
                done += 1
                ahead = [*block[number + 1 :], *(one for b in left for one in b)]
                yield Progress(
                    done,
                    done + len(ahead),
                    self._timing.estimate(ahead),
                    cell,
                    failure,
                    is_busy=self._timing.is_busy,
                )
            left = self._without_decided(left)

    def _is_out_of_time(self, began_s: float) -> bool:
        budget = self.plan.budget_minutes
        return budget is not None and self._clock() - began_s > 60 * budget

    def measure(self, cell: Cell) -> str | None:
        """Make the run of one cell and keep it; return why it could not be made."""
        began_s = self._clock()
        try:
            self._warm_up(cell)
            run = self._make(cell, self.plan.max_tokens)
        except SpecdecError as failure:
            return str(failure)
        if run.summary.error is not None:
            return run.summary.error
        run_id = self._keep(cell, run)
        self.results.add(Measured.of_run(cell.key, run, run_id))
        self._timing.add(cell, self._clock() - began_s, run.summary.tokens_per_s)
        return None

    def _warm_up(self, cell: Cell) -> None:
        """Make a short run of an arm that nobody looks at, once for each link."""
        if (cell.arm, cell.rtt_ms) not in self._warm:
            self._make(cell, min(WARM_UP_TOKENS, self.plan.max_tokens))
            self._warm.add((cell.arm, cell.rtt_ms))

    def _make(self, cell: Cell, max_tokens: int) -> Run:
        config = replace(self.plan.config(cell), max_tokens=max_tokens)
        if cell.arm.draft == OWN_SERVER:
            return stream_run(config, cell.prompt.text, self._load)
        performance = Performance(config, cell.prompt.text, load=self._load, with_baseline=False)
        with closing(performance.frames()) as frames:
            for _ in frames:
                self._look_up()
        run = performance.run()
        assert run is not None
        return run

    def _without_decided(self, blocks: list[list[Cell]]) -> list[list[Cell]]:
        """Leave out what is left of conditions whose fastest arm is beyond doubt."""
        if not self.plan.stops_early or self.plan.predicts:
            return blocks
        decided = {
            condition
            for condition in {Condition.of(block[0]) for block in blocks}
            if self.results.num_prompts(condition) >= MIN_BLOCKS
            and self.results.is_decided(condition)
        }
        return [block for block in blocks if Condition.of(block[0]) not in decided]


class _Timing:
    """What cells took in this sitting, and what the rest will take."""

    def __init__(self) -> None:
        self._by_arm: dict[tuple[Arm, float], list[float]] = defaultdict(list)
        self._earlier: dict[tuple[Arm, float], list[float]] = defaultdict(list)
        self._by_link: dict[float, list[float]] = defaultdict(list)
        self._plain: dict[float, list[float]] = defaultdict(list)
        self.is_busy = False

    def add(self, cell: Cell, seconds: float, tokens_per_s: float | None) -> None:
        self._by_arm[cell.arm, cell.rtt_ms].append(seconds)
        self._by_link[cell.rtt_ms].append(seconds)
        if cell.arm.is_plain and tokens_per_s:
            before = self._plain[cell.rtt_ms]
            took_s = 1 / tokens_per_s
            slower = len(before) > 1 and took_s > median(before)
            self.is_busy = slower and has_changed(before, [took_s])
            before.append(took_s)

    def add_earlier(self, cell: Cell, seconds: float) -> None:
        """Take in a cell of an earlier sitting, whose prompt was read in no time that is known."""
        self._earlier[cell.arm, cell.rtt_ms].append(seconds)

    def estimate(self, cells: Sequence[Cell]) -> float | None:
        """Return seconds for `cells`: by arm and link where known, else by what is nearest."""
        by_arm = _means(self._earlier) | _means(self._by_arm)
        if not by_arm:
            return None
        usual = fmean(by_arm.values())
        by_link = _means(self._by_link)
        return sum(
            by_arm.get((cell.arm, cell.rtt_ms), by_link.get(cell.rtt_ms, usual)) for cell in cells
        )


Key = TypeVar("Key")


def _means(times: Mapping[Key, Collection[float]]) -> dict[Key, float]:
    return {key: fmean(values) for key, values in times.items()}
