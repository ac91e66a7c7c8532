"""Is the output what the target alone would have written? Checked, not claimed.

At temperature 0 the answer is yes or no, token by token. Above it, two runs differ by chance, but
how many drafts are accepted is fixed by the two distributions: each test passes with probability
Σ min(p, q), so the count of those that did must lie in a band around the sum of these. (The tests
depend on each other only through the past, a martingale, for which the usual band holds.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from specdec.records import RoundResult, TokenStatus

CONFIDENCE_Z = 1.96
"""Of a two-sided band of 95 %."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two token sequences, up to the shorter one's length; `divergence` is the first difference.

    `margin` is by how much, in nats, the target preferred its token there to the next one.
    """

    num_compared: int
    divergence: int | None
    margin: float | None

    def __str__(self) -> str:
        if self.divergence is None:
            return f"Identical to plain decoding: all {self.num_compared} tokens compared."
        margin = "" if self.margin is None else f", by a margin of {self.margin:.2g} nats"
        return (
            f"The first difference to plain decoding is at token {self.divergence + 1} of "
            f"{self.num_compared}, where the target preferred another token{margin}. A tiny margin "
            "means that its numbers change with how many tokens are verified at once."
        )


def compare(rounds: Sequence[RoundResult], plain: Sequence[RoundResult]) -> Comparison:
    """Compare a speculative run with plain decoding of the same target at temperature 0."""
    ours = [token_id for r in rounds for token_id in r.emitted]
    theirs = [token_id for r in plain for token_id in r.emitted]
    count = min(len(ours), len(theirs))
    different = (index for index in range(count) if ours[index] != theirs[index])
    divergence = next(different, None)
    margin = None if divergence is None else _margin(plain, divergence)
    return Comparison(count, divergence, margin)


def _margin(plain: Sequence[RoundResult], position: int) -> float | None:
    for result in plain:
        if result.position == position and result.final is not None:
            tops = sorted(
                top.target_logprob
                for top in result.final.top_tokens
                if top.target_logprob is not None
            )
            return tops[-1] - tops[-2] if len(tops) > 1 else None
    return None


@dataclass(frozen=True, slots=True)
class AcceptanceCheck:
    """Observed acceptance of `num_tests` tests against the expected rate with its 95 % band."""

    num_tests: int
    observed: float
    expected: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        return self.low <= self.observed <= self.high


def check_acceptance(rounds: Sequence[RoundResult]) -> AcceptanceCheck | None:
    """Compare how many tests passed with Σ min(p, q) of each; None where none was recorded."""
    tests = [
        (candidate.status is TokenStatus.ACCEPTED, candidate.expected_acceptance)
        for result in rounds
        for candidate in result.candidates
        if candidate.expected_acceptance is not None
    ]
    if not tests:
        return None
    count = len(tests)
    rates = [min(1.0, max(0.0, rate)) for _, rate in tests]
    expected = sum(rates) / count
    deviation = math.sqrt(sum(rate * (1 - rate) for rate in rates)) / count
    return AcceptanceCheck(
        num_tests=count,
        observed=sum(passed for passed, _ in tests) / count,
        expected=expected,
        low=expected - CONFIDENCE_Z * deviation,
        high=expected + CONFIDENCE_Z * deviation,
    )
