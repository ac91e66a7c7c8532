"""What a round costs, fitted while the run goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median_low

import numpy as np

from specdec.records import RoundResult

COST_MEMORY = 0.99
"""Weight that the times of calls keep after each further round: half is forgotten after 69."""
NUM_TIMES = 15
"""Of the last so many times a median is taken, which seven slow rounds cannot carry away."""
SHORTEST_S = 1e-6
"""A call that takes less is not to be told from none."""


class Costs:
    """What a round costs, in seconds: a call W + n·C for n rows, the link, the drafting.

    A row is a token that the target scores: every drafted one, whatever the draft's shape, and the
    last of the context. W and C come from least squares with forgetting, kept as five sums. A round
    weighs 1 / time²: errors are in proportion to the time, so that one ten times too slow, which
    says more about the machine than about K, weighs a hundredth of another. The link, the time per
    level drafted and the tokens beside each other in a level are medians of the last rounds. When
    another drafter takes over, what is known of the target still holds; of drafting, nothing does.

    A line is all that a few rounds can say. Real calls cost by steps (four rows as much as one, the
    fifth a quarter more), so who compares sizes that were tried asks `call_s`, which goes from one
    of these to the next.
    """

    def __init__(self) -> None:
        self._sums = [0.0] * 5
        self._by_rows: dict[int, deque[float]] = {}
        self._links_s: deque[float] = deque(maxlen=NUM_TIMES)
        self._levels_s: deque[float] = deque(maxlen=NUM_TIMES)
        self._widths: deque[float] = deque(maxlen=NUM_TIMES)
        self._drafting = ""

    def add(self, result: RoundResult) -> None:
        """Take in what one more round took."""
        if result.drafting != self._drafting:
            self._drafting = result.drafting
            self._levels_s.clear()
            self._widths.clear()
        call_s = max(result.verify_s - result.link_s + result.sample_s, SHORTEST_S)
        n, weight = result.num_drafted + 1, 1.0 / call_s**2
        terms = (weight, weight * n, weight * n**2, weight * call_s, weight * n * call_s)
        self._sums = [COST_MEMORY * old + new for old, new in zip(self._sums, terms, strict=True)]
        self._by_rows.setdefault(n, deque(maxlen=NUM_TIMES)).append(call_s)
        self._links_s.append(result.link_s)
        if result.candidates:
            self._levels_s.append(result.draft_s / result.depth)
            self._widths.append(result.num_drafted / result.depth)

    @property
    def is_known(self) -> bool:
        """Say whether any round has been added."""
        return self._sums[0] > 0.0

    def line(self) -> tuple[float, float]:
        """Return W and C, neither below 0; some round must have been added."""
        total, sum_n, sum_nn, sum_s, sum_ns = self._sums
        mean_n, mean_s = sum_n / total, sum_s / total
        spread = sum_nn / total - mean_n**2
        common = sum_ns / total - mean_n * mean_s
        guess_s = mean_s / (9 + mean_n)  # C = W / 9: decides only where all n were alike
        row_s = (common + 0.01 * guess_s) / (spread + 0.01)
        row_s = min(max(row_s, 0.0), mean_s / mean_n)
        return mean_s - mean_n * row_s, row_s

    @property
    def level_s(self) -> float:
        """Return what drafting one level takes."""
        return median_low(self._levels_s or (0.0,))

    @property
    def call_s(self) -> Callable[[int], float]:
        """Return how many rows → what the target takes to score them, link included.

        Between sizes that were tried it goes straight, beyond them as the line does; more rows
        never cost less. What it follows from is computed once, for planning asks it hundreds of
        times.
        """
        sizes = sorted(self._by_rows)
        heights = _rising(
            [median_low(self._by_rows[size]) for size in sizes],
            [len(self._by_rows[size]) for size in sizes],
        )
        _, row_s = self.line()
        link_s = median_low(self._links_s)

        def of_rows(num_rows: int) -> float:
            inside_s = float(np.interp(num_rows, sizes, heights))
            above, below = max(0, num_rows - sizes[-1]), max(0, sizes[0] - num_rows)
            saved_s = min(row_s * below, inside_s * below / sizes[0])  # some of it stays
            return inside_s + row_s * above - saved_s + link_s

        return of_rows

    def per_round(self) -> tuple[float, float]:
        """Return what a plain round costs, and what each further level of a draft adds to it."""
        fixed_s, row_s = self.line()
        width = median_low(self._widths or (1.0,))
        return fixed_s + row_s + median_low(self._links_s), row_s * width + self.level_s


def _rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the nearest values, by weighted squares, of which none is below the one before.

    Neighbours that fall are pooled until none does.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, its_weight, its_count = pools.pop()
            mean = (before * its_weight + mean * total) / (its_weight + total)
            total, count = total + its_weight, count + its_count
        pools.append((mean, total, count))
    return [mean for mean, _, count in pools for _ in range(count)]
