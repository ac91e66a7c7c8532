"""What a sweep has come to: for every arm under every condition, how fast, and how sure that is.

Speeds are compared within a prompt: an arm's time there against plain decoding's, both measured
within a minute of each other. Every ratio is one of sums over prompts (all tokens over all
seconds), and its interval comes from drawing prompts with replacement, the same for both sides (a
paired bootstrap), because prompts differ far more than runs of one prompt do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from specdec.codec import from_json, loads
from specdec.errors import TraceError
from specdec.lab.plan import PLAIN_ARM, Arm, Cell
from specdec.records import RunSummary
from specdec.runs.noise import CONFIDENCE, Interval, ratio_interval
from specdec.runs.run import Run
from specdec.saved.rows import cell_totals
from specdec.saved.sweeps import MeasuredCell

CONFIDENCE_OF_LOOKS = 0.99
"""Of a comparison that is looked at after every prompt and ends the sweep when it is decided. Ten
looks at 95 % would find a difference that is none in one sweep of five; at 99 % it is one in twenty
(Pocock 1977, "Group sequential methods", https://doi.org/10.1093/biomet/64.2.191)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What arms are compared under; `kind` is a class of prompts, the empty text for all."""

    temperature: float
    rtt_ms: float
    kind: str = ""

    @classmethod
    def of(cls, cell: Cell) -> Condition:
        """Return the condition of a cell, over all classes."""
        return cls(cell.temperature, cell.rtt_ms)


@dataclass(frozen=True, slots=True)
class Measured:
    """One cell: `tokens` in `seconds`, with the share of drafts accepted.

    Attributes:
        key: which cell (`Cell.key`).
        tokens: written.
        seconds: of decoding, the prompt's reading aside.
        acceptance: accepted over drafted tokens.
        run_id: of its run in the store.
        totals_text: `cell_totals` of its run, which `totals` reads.
        is_predicted: whether nobody ran it.
        guessed_waste: see `waste`; of a predicted cell.
    """

    key: str
    tokens: int
    seconds: float
    acceptance: float | None
    run_id: int | None = None
    totals_text: str | None = None
    is_predicted: bool = False
    guessed_waste: float | None = None

    @property
    def waste(self) -> float | None:
        """Drafted tokens that were not accepted, per token written; None where not known."""
        totals = self.totals
        if totals is None or not totals.num_tokens:
            return self.guessed_waste
        return (totals.num_draft_tokens - totals.num_accepted_draft_tokens) / totals.num_tokens

    @classmethod
    def of_run(cls, key: str, run: Run, run_id: int | None = None) -> Measured:
        summary = run.summary
        rate = summary.draft_acceptance_rate
        return cls(key, summary.num_tokens, summary.decode_s, rate, run_id, cell_totals(run))

    @classmethod
    def of_cell(cls, cell: MeasuredCell) -> Measured:
        speed = cell.tokens_per_s
        seconds = cell.num_tokens / speed if speed else 0.0
        rate = cell.draft_acceptance_rate
        return cls(cell.key, cell.num_tokens, seconds, rate, cell.run_id, cell.totals)

    @property
    def totals(self) -> RunSummary | None:
        """The totals of its run, where the store has them."""
        return _totals(self.totals_text)[0]

    @property
    def tested(self) -> tuple[int, ...]:
        """How often each position of its drafts was tested."""
        return _totals(self.totals_text)[1]

    @property
    def machine(self) -> str:
        """Where it was made; the empty text where that is not known."""
        return _machine(self.totals_text)


@lru_cache(maxsize=50_000)
def _totals(text: str | None) -> tuple[RunSummary | None, tuple[int, ...]]:
    """Read what the store holds of a cell, which may be anything."""
    facts = _facts(text)
    try:
        summary: RunSummary = from_json(RunSummary, facts.get("summary"), "totals")
        tested: tuple[int, ...] = from_json(tuple[int, ...], facts.get("tested"), "tested")
    except TraceError:
        return None, ()
    return summary, tested


@lru_cache(maxsize=50_000)
def _machine(text: str | None) -> str:
    """Read where a cell was made and no more, because every cell of a list is asked for it."""
    machine = _facts(text).get("machine")
    return machine if isinstance(machine, str) else ""


def _facts(text: str | None) -> dict[str, Any]:
    try:
        facts = loads(text or "")
    except TraceError:
        return {}
    return facts if isinstance(facts, dict) else {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm under one condition.

    Attributes:
        arm: what drafted.
        num_prompts: of which both this arm and plain decoding are measured.
        speedup: tokens per second over plain decoding's, with its 95 % interval.
        tokens_per_s: all its tokens over all its seconds.
        acceptance: mean over its runs of accepted over drafted tokens; None if nothing was drafted.
        is_best: no other arm is faster by these measurements.
        is_within_noise: the interval of its ratio to the best one's speed holds 1.
        is_predicted: whether it was calculated, not run.
        wasted: drafted tokens that were not accepted, per token written; None where not known.
    """

    arm: Arm
    num_prompts: int
    speedup: Interval
    tokens_per_s: float
    acceptance: float | None
    is_best: bool
    is_within_noise: bool
    is_predicted: bool = False
    wasted: float | None = None


_Place = tuple[str, int]
"""A prompt and a seed: what both sides of a pair share."""


def _are_comparable(one: Measured, other: Measured) -> bool:
    """Say whether two times are of one machine, as far as is known; a prediction is of its own."""
    return one.machine == other.machine or "" in (one.machine, other.machine)


class Results:
    """The measured cells of a sweep, by condition and arm; cells may be added."""

    def __init__(self, arms: Sequence[Arm], measured: Iterable[Measured]) -> None:
        self.arms = tuple(arms)
        self.cells: list[Measured] = []
        self.keys: set[str] = set()
        self._cells: dict[tuple[Condition, Arm], dict[_Place, Measured]] = defaultdict(dict)
        for one in measured:
            self.add(one)

    def add(self, measured: Measured) -> None:
        """Take one more cell in; one without a single token or second says nothing."""
        self.keys.add(measured.key)
        self.cells.append(measured)
        if not (measured.tokens and measured.seconds > 0):
            return
        facts = json.loads(measured.key)
        arm = Arm(**{name: facts[name] for name in Arm.__dataclass_fields__})
        place = (facts["prompt"], facts["seed"])
        for kind in ("", facts["class"]):
            condition = Condition(facts["temperature"], facts["rtt_ms"], kind)
            self._cells[condition, arm][place] = measured

    @property
    def conditions(self) -> list[Condition]:
        """Return every condition that something was measured under, in order."""
        found = {condition for condition, _ in self._cells}
        return sorted(found, key=lambda one: (one.kind, one.temperature, one.rtt_ms))

    def num_prompts(self, condition: Condition) -> int:
        """Return on how many prompts every arm has been measured, with one seed at least."""
        places = [set(self._cells[condition, arm]) for arm in self.arms]
        return len({prompt for prompt, _ in set.intersection(*places)}) if places else 0

    def outcomes(self, condition: Condition) -> list[Outcome]:
        """Return every arm that has been measured beside plain decoding, the fastest first."""
        speeds = {}
        for arm in self.arms:
            pairs = self._pairs(condition, arm, PLAIN_ARM)
            if len(pairs):
                speeds[arm] = (ratio_interval(pairs), pairs)
        if not speeds:
            return []
        best = max(speeds, key=lambda arm: speeds[arm][0].mean)
        outcomes = [
            Outcome(
                arm,
                len(pairs),
                speedup,
                float(pairs[:, 0].sum() / pairs[:, 1].sum()),
                self._acceptance(condition, arm),
                is_best=arm == best,
                is_within_noise=arm == best or self._are_alike(condition, arm, best),
                is_predicted=self._is_predicted(condition, arm),
                wasted=self._wasted(condition, arm),
            )
            for arm, (speedup, pairs) in speeds.items()
        ]
        return sorted(outcomes, key=lambda one: -one.speedup.mean)

    def is_decided(self, condition: Condition) -> bool:
        """Say whether one arm is faster than every other beyond the noise, however often asked."""
        arms = [one.arm for one in self.outcomes(condition)]
        return len(arms) > 1 and not any(
            self._are_alike(condition, one, arms[0], CONFIDENCE_OF_LOOKS) for one in arms[1:]
        )

    def cells_of(self, condition: Condition, arm: Arm) -> list[Measured]:
        """Return the cells of an arm under a condition."""
        return list(self._cells.get((condition, arm), {}).values())

    def pairs(self, condition: Condition, arm: Arm) -> list[tuple[Measured, Measured]]:
        """Return the cells of an arm beside those of plain decoding, prompt by prompt."""
        ours = self._cells.get((condition, arm), {})
        plain = self._cells.get((condition, PLAIN_ARM), {})
        return [
            (one, plain[place])
            for place, one in ours.items()
            if place in plain and _are_comparable(one, plain[place])
        ]

    def _pairs(self, condition: Condition, arm: Arm, reference: Arm) -> np.ndarray:
        """Return [prompts, 4]: tokens and seconds of the arm, tokens and seconds of the other.

        The seeds of a prompt are summed up: they are no prompts of their own, and at temperature 0
        not even other texts.
        """
        ours, theirs = self._cells[condition, arm], self._cells[condition, reference]
        sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
        for place, one in ours.items():
            other = theirs.get(place)
            if other is not None and _are_comparable(one, other):
                sums[place[0]] += (one.tokens, one.seconds, other.tokens, other.seconds)
        return np.array(list(sums.values())).reshape(-1, 4)

    def _are_alike(
        self, condition: Condition, arm: Arm, best: Arm, confidence: float = CONFIDENCE
    ) -> bool:
        pairs = self._pairs(condition, arm, best)
        if not len(pairs):
            return True
        found = ratio_interval(pairs, confidence)
        return found.low is None or found.high is None or found.low <= 1.0 <= found.high

    def _is_predicted(self, condition: Condition, arm: Arm) -> bool:
        return any(one.is_predicted for one in self._cells[condition, arm].values())

    def _wasted(self, condition: Condition, arm: Arm) -> float | None:
        cells = self._cells[condition, arm].values()
        shares = [(one.tokens, one.waste) for one in cells if one.waste is not None]
        written = sum(tokens for tokens, _ in shares)
        return sum(tokens * waste for tokens, waste in shares) / written if written else None

    def _acceptance(self, condition: Condition, arm: Arm) -> float | None:
        cells: Mapping[_Place, Measured] = self._cells[condition, arm]
        rates = [one.acceptance for one in cells.values() if one.acceptance is not None]
        return float(np.mean(rates)) if rates else None
