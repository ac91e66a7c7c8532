"""Acceptance once, speed for any K and any link: most cells of a plan need not be run.

Whether a drafted token is accepted depends neither on how many follow it nor on how far away the
target is. So each chain of a fixed K is measured once, at its largest K and over the shortest link,
and plain decoding of the same prompt over every link: acceptance by position and the costs of a
round (see `specdec.runs.worth`, whose formula this is) then give every other K and link. A tenth of
those is measured all the same, drawn by the plan's digest, with every K among them, to see how far
off the predictions are.

These also say what a call of each width costs. It is no straight line: kernels work in blocks of
rows, so that four may cost what one does and the fifth a quarter more, and a line from one row to
the largest K would make every K in between look too dear. A checked cell is predicted from the
costs of all others.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from specdec.lab.plan import OWN_SERVER, Arm, Cell, Plan
from specdec.lab.results import Measured, Results
from specdec.metrics import Baseline
from specdec.runs.worth import Outlook, costs_of, outlook

CHECKED_SHARE = 0.1
_LEAST_FILLED = 0.8
"""Of K, on average: shorter drafts are those of another K."""


@dataclass(frozen=True, slots=True)
class Check:
    """One cell that was predicted and measured, in tokens per second."""

    key: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far off the prediction is, as a share of what was measured."""
        return abs(self.predicted / self.measured - 1.0)


def is_predictable(arm: Arm) -> bool:
    """Say whether the formula holds for an arm: a chain of a K that stands, or no draft."""
    return arm == Arm(arm.draft, arm.num_draft_tokens) and arm.draft != OWN_SERVER


def cells_to_measure(plan: Plan) -> list[Cell]:
    """Return the cells of a plan that are run, in its order."""
    if not plan.predicts:
        return plan.cells
    bases = _bases(plan)
    rng = random.Random(f"checks {plan.digest}")
    base = {cell for cell in plan.cells if _is_base(cell, plan, bases)}
    checks = {cell for cell in plan.cells if cell not in base and rng.random() < CHECKED_SHARE}
    tried = {cell.arm.num_draft_tokens for cell in base | checks}
    for cell in plan.cells:
        if cell.arm.num_draft_tokens not in tried:
            tried.add(cell.arm.num_draft_tokens)
            checks.add(cell)
    return [cell for cell in plan.cells if cell in base or cell in checks]


def _bases(plan: Plan) -> dict[str, int]:
    """Return the largest K of each predictable draft."""
    bases: dict[str, int] = defaultdict(int)
    for arm in plan.arms:
        if is_predictable(arm):
            bases[arm.draft] = max(bases[arm.draft], arm.num_draft_tokens)
    return bases


def _is_base(cell: Cell, plan: Plan, bases: Mapping[str, int]) -> bool:
    if not is_predictable(cell.arm) or cell.arm.is_plain:
        return True
    is_near = cell.rtt_ms == min(plan.rtt_ms)
    return is_near and cell.arm.num_draft_tokens == bases[cell.arm.draft]


_Place = tuple[str, float, int]
"""A prompt, a temperature, a seed: what a prediction is made from and for."""


class Predictor:
    """What the measured cells of a plan say about those that are not."""

    def __init__(self, plan: Plan, measured: Iterable[Measured]) -> None:
        self._plan = plan
        self._bases = _bases(plan)
        self._measured = {one.key: one for one in measured if one.tokens and one.seconds > 0}
        self._cells = {cell.key: cell for cell in plan.cells}
        bases = {
            cell: self._measured[key]
            for key, cell in self._cells.items()
            if key in self._measured and _is_base(cell, plan, self._bases)
        }
        self._plain = {
            (_place(cell), cell.rtt_ms): baseline
            for cell, one in bases.items()
            if cell.arm.is_plain and (baseline := _baseline(one)) is not None
        }
        self._outlooks: dict[tuple[_Place, str], Outlook] = {}
        for cell, one in bases.items():
            found = self._outlook(cell, one)
            if found is not None:
                self._outlooks[_place(cell), cell.arm.draft] = found

        self._extras = self._extras_tried()
        self._usual = {k: median(tried.values()) for k, tried in self._extras.items()}

    def _extras_tried(self) -> dict[int, dict[str, float]]:
        """Return, by K and cell, what K drafted tokens add to a call, as a share of one without.

        Drafts much shorter than K, as lookups make them, say nothing of calls that wide.
        """
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for key, one in self._measured.items():
            cell, totals = self._cells.get(key), one.totals
            if cell is None or cell.arm.is_plain or not is_predictable(cell.arm) or totals is None:
                continue
            plain = self._plain.get((_place(cell), cell.rtt_ms))
            k, drafting = cell.arm.num_draft_tokens, sum(totals.drafted_per_pos[:1])
            if plain is None or totals.num_draft_tokens < _LEAST_FILLED * k * drafting:
                continue
            costs = costs_of(totals, plain)
            if drafting and costs.call_s > 0:
                added_s = costs.extra_s * totals.num_draft_tokens / drafting
                found[k][key] = added_s / costs.call_s
        return found

    def _widths(self, cell: Cell, call_s: float) -> tuple[tuple[int, float], ...]:
        """Return what drafts add to a call of `call_s`, by K, from all cells but this one."""
        shares, own = dict(self._usual), cell.arm.num_draft_tokens
        if cell.key in self._extras.get(own, {}):
            del shares[own]
            others = [extra for key, extra in self._extras[own].items() if key != cell.key]
            if others:
                shares[own] = median(others)
        return tuple((k, share * call_s) for k, share in sorted(shares.items()))

    def _outlook(self, cell: Cell, one: Measured) -> Outlook | None:
        baseline = self._plain.get((_place(cell), cell.rtt_ms))
        if cell.arm.is_plain or not is_predictable(cell.arm):
            return None
        if baseline is None or one.totals is None:
            return None
        return outlook(one.totals, one.tested, baseline)

    def outlook(self, cell: Cell) -> Outlook | None:
        """Return what is known of a cell's draft, at the costs of calls as wide and over its link.

        A call takes longer after a wait than right after another call, so what a call costs is not
        carried over from link to link.
        """
        found = self._outlooks.get((_place(cell), cell.arm.draft))
        plain = self._plain.get((_place(cell), cell.rtt_ms))
        if found is None or plain is None:
            return None
        link_s = plain.link_s / plain.num_tokens
        call_s = plain.decode_s / plain.num_tokens - link_s
        widths = self._widths(cell, call_s)
        costs = replace(found.costs, call_s=call_s, link_s=link_s, widths=widths)
        return replace(found, costs=costs)

    def predicted(self) -> list[Measured]:
        """Return every cell that can be predicted and is no base of predictions."""
        found = (
            self._predict(cell)
            for cell in self._cells.values()
            if not _is_base(cell, self._plan, self._bases)
        )
        return [one for one in found if one is not None]

    def checks(self) -> list[Check]:
        """Return what was both predicted and measured."""
        return [
            Check(one.key, one.tokens / one.seconds, real.tokens / real.seconds)
            for one in self.predicted()
            if (real := self._measured.get(one.key)) is not None
        ]

    def _predict(self, cell: Cell) -> Measured | None:
        found = self.outlook(cell)
        if found is None:
            return None
        k, tokens = cell.arm.num_draft_tokens, self._plain[_place(cell), cell.rtt_ms].num_tokens
        drafted, written = found.drafted_per_round(k), found.tokens_per_round(k)
        return Measured(
            cell.key,
            tokens,
            tokens / found.tokens_per_s(k),
            (written - 1.0) / drafted if drafted else None,
            is_predicted=True,
            guessed_waste=(drafted - (written - 1.0)) / written,
        )


def _baseline(one: Measured) -> Baseline | None:
    totals = one.totals
    if totals is None or not totals.num_tokens:
        return None
    return Baseline(totals.num_tokens, totals.decode_s, totals.link_s)


def _place(cell: Cell) -> _Place:
    return cell.prompt.text, cell.temperature, cell.seed


def completed(plan: Plan, results: Results) -> Results:
    """Return results in which arms that were not measured on every prompt are predicted.

    An arm under a condition is measured on every prompt or predicted on every one, lest some
    prompts count with their times and others with the formula's.
    """
    if not plan.predicts:
        return results
    predicted = Predictor(plan, results.cells).predicted()
    groups = {_group(one) for one in predicted if one.key not in results.keys}
    kept = [one for one in results.cells if _group(one) not in groups]
    filled = [one for one in predicted if _group(one) in groups]
    return Results(plan.arms, [*kept, *filled])


def _group(one: Measured) -> tuple[object, ...]:
    """Return an arm and its condition: what one cell of a heat map shows."""
    facts = json.loads(one.key)
    return tuple(value for name, value in facts.items() if name not in ("prompt", "class", "seed"))


def median_error(checks: Sequence[Check]) -> float | None:
    """Return the median error of the checked cells, None where there are none."""
    return median(check.error for check in checks) if checks else None
