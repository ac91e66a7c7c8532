"""K that writes the most tokens per second, by what the rounds so far have shown.

A round with K drafted tokens yields 1 + Σ_{i ≤ K} Π_{j ≤ i} a_j tokens, where a_j is how often
position j is accepted once those before it were, and costs W + (K + 1)·C + l + K·t seconds: the
target's call, the link, drafting. That is the walltime of Leviathan, Kalman and Matias 2023
(https://arxiv.org/abs/2211.17192) without their assumption that all a_j are alike. Everything in
it is measured in the run itself. K = 0 is plain decoding, and may well be best.

The first three rounds explore: K as it is set, no draft, one token. Both ends of the costs are
known then, and one slow start cannot speak against drafting for good. From there on the best K is
used; position K + 1 is tried now and then, sooner the less is known of it, or nobody would notice
that it has become worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from specdec.policies.base import MAX_DEPTH, Budget
from specdec.policies.costs import Costs
from specdec.records import RoundResult, percent

PRIOR = 0.6
"""What position 1 is taken to be accepted with before it was tested; tests make it forgotten."""
PRIOR_TESTS = 3.0
"""How many tests that counts for, and for good what the position before says of any other."""
TEST_MEMORY = 0.97
"""Weight that the tests of a position keep after each further test of it, 33 of them in all."""
ROUND_MEMORY = 0.99
"""Weight that they keep after each further round, or texts that change would leave them behind."""
PROBE_EVERY = 16
"""Rounds after which position K + 1 is tried at the latest; twice as many where K is 0."""
PROBE_SHARE = 0.005
"""The most of the time that probes may cost; they are rarer where they are dear."""
LEAD = 1.01
"""Another K must promise to be so many times as fast, or K would flicker between equals."""


class Acceptance:
    """How often each position is accepted once those before it were: averages that forget.

    A position is taken to be like the one before it until tests say otherwise. So one that is
    seldom reached neither stands in the way nor promises more than the others.
    """

    def __init__(self) -> None:
        others = [0.0] * (MAX_DEPTH - 1)
        self.tests = [PRIOR_TESTS, *others]
        self._passed = [PRIOR * PRIOR_TESTS, *others]

    def add(self, result: RoundResult) -> None:
        passed = result.num_accepted
        tested = min(result.depth, passed + (result.final is not None))
        for place in range(MAX_DEPTH):
            kept = ROUND_MEMORY * (TEST_MEMORY if place < tested else 1.0)
            self.tests[place] = kept * self.tests[place] + (place < tested)
            self._passed[place] = kept * self._passed[place] + (place < passed)

    def rates(self) -> list[float]:
        """Return a_1 … a_16."""
        rate, rates = self._passed[0] / self.tests[0], []
        for tests, passed in zip(self.tests, self._passed, strict=True):
            rate = (passed + PRIOR_TESTS * rate) / (tests + PRIOR_TESTS)
            rates.append(rate)
        return rates


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of a round, by K.

    Attributes:
        rates: a_1, a_2, …
        plain_s: seconds of a round without a draft.
        position_s: seconds that each drafted position adds.
        tokens: expected by K from 0.
    """

    rates: Sequence[float]
    plain_s: float
    position_s: float
    tokens: Sequence[float]

    @classmethod
    def of(cls, rates: Sequence[float], plain_s: float, position_s: float) -> Outlook:
        tokens = list(accumulate(accumulate(rates, mul), initial=1.0))
        return cls(rates, plain_s, position_s, tokens)

    def round_s(self, k: int) -> float:
        return self.plain_s + k * self.position_s

    def speed(self, k: int) -> float:
        """Return the expected tokens per second."""
        return self.tokens[k] / self.round_s(k)

    @property
    def best(self) -> int:
        return max(range(len(self.tokens)), key=self.speed)

    def loss(self, k: int) -> float:
        """Return the share of a round with K that one with K + 1 would waste; below 0 if none."""
        return self.round_s(k + 1) / self.round_s(k) - self.tokens[k + 1] / self.tokens[k]

    def why(self, before: int, best: int) -> str:
        """Say what speaks for the best K against another: the last position won, or lost first."""
        position = max(best, min(before, best + 1))
        saved_s = (self.tokens[position] - self.tokens[position - 1]) / self.speed(best)
        gain_s = saved_s - self.position_s
        verdict = ("costs", "saves") if best < before else ("saves", "costs")
        return (
            f"K {before} → {best}: position {position} is accepted "
            f"{percent(self.rates[position - 1])} of the time, and {verdict[0]} "
            f"{_words(abs(gain_s))} more than it {verdict[1]}."
        )


def _words(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds >= 9.5e-4 else f"{1e6 * seconds:.0f} µs"


class AdaptivePolicy:
    """Start with K as it is set, and go where the most tokens per second are to be expected."""

    name = "adaptive"

    def __init__(self, max_num_draft_tokens: int = MAX_DEPTH) -> None:
        """Never decide a K above `max_num_draft_tokens`, nor above `MAX_DEPTH`."""
        self._cap = min(max_num_draft_tokens, MAX_DEPTH)

    def start(self) -> AdaptiveRun:
        return AdaptiveRun(self._cap)


class AdaptiveRun:
    """What one run has shown so far; each round is read once, so that deciding costs the same."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._k: int | None = None
        self._num_seen = 0
        self._ahead: list[int] = []
        self._drafting = ""
        self._acceptance = Acceptance()
        self._costs = Costs()
        self._last_try = [0] * (MAX_DEPTH + 1)
        """By depth, the number of rounds up to the last draft that was so deep."""

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        for result in rounds[self._num_seen :]:
            self._learn(result)
        if self._k is None:
            self._k = min(num_draft_tokens, self._cap)
            self._ahead = [1, 0] if self._k else [1]
            return Budget.chain(self._k)
        if self._ahead:
            return self._explore(self._k, min(self._ahead.pop(), self._cap))
        rates = self._acceptance.rates()[: self._cap]
        return self._decide(self._k, Outlook.of(rates, *self._costs.per_round()))

    def _learn(self, result: RoundResult) -> None:
        if result.drafting != self._drafting:
            self._drafting = result.drafting
            self._acceptance = Acceptance()
        self._num_seen += 1
        self._acceptance.add(result)
        self._costs.add(result)
        for reached in range(min(result.depth, MAX_DEPTH) + 1):
            self._last_try[reached] = self._num_seen

    def _explore(self, k: int, step: int) -> Budget:
        what = "a drafted token costs" if step else "a call without a draft costs"
        moved = f"K {k} → {step} for one round, to see what {what}."
        return Budget.chain(step, reason=moved if step != k else "")

    def _decide(self, k: int, outlook: Outlook) -> Budget:
        best = outlook.best
        if outlook.speed(best) > LEAD * outlook.speed(k):
            self._k = best
            return Budget.chain(best, reason=outlook.why(k, best))
        if k == self._cap:
            return Budget.chain(k)
        waited = self._num_seen - self._last_try[k + 1]
        if waited < self._patience(k, outlook):
            return Budget.chain(k)
        when = f"last tried {waited} rounds ago" if self._last_try[k + 1] else "never tried"
        self._last_try[k + 1] = self._num_seen + 1  # also where the drafter has nothing to offer
        reason = f"K {k} → {k + 1} for one round: position {k + 1} was {when}."
        return Budget.chain(k + 1, reason=reason)

    def _patience(self, k: int, outlook: Outlook) -> float:
        """Return for how many rounds position K + 1 may go untried: fewer, the less is known."""
        known = 2.0 * (1.0 + self._acceptance.tests[k])
        longest = PROBE_EVERY if k else 2 * PROBE_EVERY
        return max(min(known, longest), outlook.loss(k) / PROBE_SHARE)
