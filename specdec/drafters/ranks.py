"""How likely each sibling of a tree is the first to be accepted: measured while a run goes on.

The best shape of a tree follows from one number per rank (Sequoia): the chance that the b-th child
of a node is the first accepted. Wherever draft and target have both spoken, it can be computed for
every rank, whether so many siblings were drafted or not: siblings are drawn once more, for nobody,
and walked through the rule. The test of sibling j passes with probability Σ min(c_j, q_j), where
c_j is what the target wants of the rest, and those before it were rejected. No pass of a model is
needed, and the draws come from a generator of its own, so no draw of the run depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import overlap, residual
from specdec.drafters.growing import Candidate
from specdec.sampling import Distribution

NUM_RANKS = 4
"""Siblings that are looked at: the fifth is accepted once in a hundred times, or less."""
PRIOR = (0.6, 0.1, 0.05, 0.03)
"""What is believed before anything was measured: an ordinary draft."""
PRIOR_NODES = 2.0
"""How many nodes that counts for."""
MEMORY = 0.97
"""Weight that nodes keep after each further one: the last 33 of them decide."""

Draw = Callable[[Distribution, int, np.random.Generator], Sequence[Candidate]]
"""(law of a node, how many, generator) → that many siblings, in the order of their tests."""


class RankAcceptance:
    """The chance of each rank, as an average that forgets."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._rng = np.random.default_rng(0)
        self._sums = PRIOR_NODES * np.array(PRIOR)
        self._weight = PRIOR_NODES

    @property
    def chances(self) -> tuple[float, ...]:
        """Return for each rank the chance that it is the first accepted; they sum to at most 1."""
        return tuple((self._sums / self._weight).tolist())

    def add(self, target: Distribution, draft: Distribution) -> None:
        """Take in a node at which both have spoken."""
        self._sums = MEMORY * self._sums + self._first_accepted(target, draft)
        self._weight = MEMORY * self._weight + 1.0

    def _first_accepted(self, target: Distribution, draft: Distribution) -> NDArray[np.float64]:
        chances = np.zeros(NUM_RANKS)
        left, wanted = 1.0, target.probs
        for rank, (token_id, law) in enumerate(self._draw(draft, NUM_RANKS, self._rng)):
            probs = None if law is None else law.probs
            passing = float(wanted[token_id]) if probs is None else overlap(wanted, probs)
            chances[rank] = left * passing
            left *= 1.0 - passing
            if left <= 0.0:
                break
            wanted = residual(wanted, token_id, probs)
        return chances
