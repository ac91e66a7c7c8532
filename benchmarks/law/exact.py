"""The exact law of the first tokens, and how well samples fit it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LENGTH = 3
ALARM = 0.001
POWER = 0.99

Tokens = tuple[int, ...]
NextProbs = Callable[[Tokens], NDArray[np.float64]]


@dataclass(frozen=True)
class Law:
    """The law of sequences of `LENGTH` tokens over cells that each are likely enough.

    A cell is a whole sequence, or all sequences that leave a prefix by an unlikely token (the
    prefix and −1), or what is too rare even for that (None).
    """

    chances: dict[Tokens | None, float]
    prefixes: frozenset[Tokens]

    def cell(self, tokens: Sequence[int]) -> Tokens | None:
        """Return the cell that a sequence belongs to."""
        for end in range(1, LENGTH + 1):
            prefix = tuple(tokens[:end])
            if prefix in self.chances:
                return prefix
            if prefix not in self.prefixes:
                rest = (*prefix[:-1], -1)
                return rest if rest in self.chances else None
        raise AssertionError("a whole sequence is a cell or leaves the tree")


def exact_law(next_probs: NextProbs, min_chance: float) -> Law:
    """Return the law that `next_probs` (probabilities [vocab_size] after a prefix) fixes."""
    chances: dict[Tokens | None, float] = {}
    prefixes: set[Tokens] = set()
    pooled = 0.0

    def expand(prefix: Tokens, chance: float) -> None:
        nonlocal pooled
        prefixes.add(prefix)
        probs = next_probs(prefix)
        likely = np.flatnonzero(chance * probs >= min_chance)
        rest = chance * max(0.0, 1.0 - float(probs[likely].sum()))
        for token_id in likely.tolist():
            child = (*prefix, token_id)
            if len(child) == LENGTH:
                chances[child] = chance * float(probs[token_id])
            else:
                expand(child, chance * float(probs[token_id]))
        if rest >= min_chance:
            chances[*prefix, -1] = rest
        else:
            pooled += rest

    expand((), 1.0)
    if pooled < min_chance and chances:  # no cell of its own: it joins the rarest
        rarest = min(chances, key=chances.__getitem__)
        pooled += chances.pop(rarest)
    chances[None] = pooled
    return Law(chances, frozenset(prefixes))


@dataclass(frozen=True)
class Fit:
    """How well counts fit a law: Pearson's statistic, its degrees of freedom, its tail."""

    statistic: float
    freedom: int
    p: float


def fit(law: Law, samples: Sequence[Sequence[int]]) -> Fit:
    """Compare sampled sequences with their law."""
    counts = Counter(law.cell(tokens) for tokens in samples)
    expected = {cell: len(samples) * chance for cell, chance in law.chances.items()}
    impossible = sum(counts[cell] for cell in counts if expected.get(cell, 0.0) <= 0.0)
    if impossible:
        return Fit(float("inf"), max(1, len(expected) - 1), 0.0)
    statistic = sum((counts[c] - e) ** 2 / e for c, e in expected.items() if e > 0.0)
    freedom = sum(e > 0.0 for e in expected.values()) - 1
    p = float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0
    return Fit(float(statistic), freedom, p)


def together(fits: Sequence[Fit]) -> float:
    """Return the tail of all p-values together (Fisher 1925); the fits are independent."""
    tails = [max(one.p, 1e-300) for one in fits if one.freedom]
    return float(stats.combine_pvalues(tails).pvalue) if tails else 1.0


def visible_distance(fits: Sequence[Fit], num_samples: int) -> float:
    """Return the total variation distance that the sum of the statistics shows with `POWER`."""
    freedom = sum(one.freedom for one in fits)
    if not freedom:
        return 1.0  # too few samples to tell anything
    bound = stats.chi2.isf(ALARM, freedom)
    noncentrality = optimize.brentq(
        lambda shift: stats.ncx2.sf(bound, freedom, shift) - POWER, 1e-6, 1e6
    )
    return float(np.sqrt(noncentrality / (4 * num_samples)))
