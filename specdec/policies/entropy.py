"""Stop drafting where the draft is unsure: AdaEDL.

Agrawal, Jeon, Lee 2024 (https://arxiv.org/abs/2410.18351). With H the entropy of the draft's own
distribution, in nats, 1 − √(γ·H) is a lower bound on how likely the next token is to be accepted;
below a threshold λ nothing further is drafted. λ follows the acceptance of the rounds:

    r ← β₁·r + (1 − β₁)·(accepted / drafted)
    λ ← β₂·λ + (1 − β₂)·(λ + ε·sign(target − r))

The bound is looked at *before* a token is drawn, and λ is fixed before the round: whether there is
a next token does not depend on which one it would be, and the output keeps its law.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt

from specdec.policies.base import Budget
from specdec.records import RoundResult, percent
from specdec.sampling import Distribution

GAMMA = 0.2
"""Scales entropy; a draft whose entropy is above 5 nats is never trusted."""
TARGET = 0.9
"""The share of drafted tokens that λ is to have accepted."""
START = 0.2
"""λ of the first round: drafting stops above 3.2 nats. A small draft is seldom surer than 2 nats in
prose, and a start that leaves its drafts empty would have λ come down from there by 0.001 a round.
"""
RATE_MEMORY = 0.5
"""β₁"""
THRESHOLD_MEMORY = 0.9
"""β₂"""
STEP = 0.01
"""ε"""


def acceptance_bound(entropy: float) -> float:
    """Return what acceptance an entropy (nats) promises at least; below 0 it promises nothing."""
    return 1.0 - sqrt(GAMMA * entropy)


def is_unsure(threshold: float, law: Distribution) -> bool:
    """Say whether the draft promises less than `threshold`; its own law, whatever the sampler."""
    return acceptance_bound(law.entropy) < threshold


def entropy_limit(threshold: float) -> float:
    """Return above which entropy, in nats, a draft is unsure."""
    return (1.0 - threshold) ** 2 / GAMMA


class EntropyPolicy:
    """Draft up to K tokens, as it is set, for as long as the draft is sure enough.

    In a tree, nothing is drafted below an unsure token. Drafts without a law (prompt lookup) have
    no entropy and keep that K.
    """

    name = "entropy"

    def start(self) -> EntropyRun:
        return EntropyRun()


class EntropyRun:
    """λ, and the acceptance r that it follows."""

    def __init__(self) -> None:
        self.threshold = START
        self._rate = TARGET
        self._told = entropy_limit(START)

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        if rounds and rounds[-1].policy == EntropyPolicy.name:
            self._follow(rounds[-1])
        stop = partial(is_unsure, self.threshold)
        return Budget.chain(num_draft_tokens, stop, self._moved())

    def _follow(self, result: RoundResult) -> None:
        """Move λ after a round; where nothing was drafted, nothing was rejected either.

        Without that, a λ so high that nothing passes it would stay there for good.
        """
        if not result.num_draft_tokens:
            return
        rate = result.num_accepted / result.depth if result.candidates else 1.0
        self._rate = RATE_MEMORY * self._rate + (1.0 - RATE_MEMORY) * rate
        sign = (self._rate < TARGET) - (self._rate > TARGET)
        moved = self.threshold + STEP * sign
        threshold = THRESHOLD_MEMORY * self.threshold + (1.0 - THRESHOLD_MEMORY) * moved
        self.threshold = min(max(threshold, 0.0), 1.0)

    def _moved(self) -> str:
        """Say where drafting stops, once that has moved by a tenth of a nat."""
        limit, told = entropy_limit(self.threshold), self._told
        if abs(limit - told) < 0.1:
            return ""
        self._told = limit
        lately = f"{percent(self._rate)} were accepted lately"
        return f"Drafting stops above {limit:.1f} nats, no longer {told:.1f}: {lately}."
