"""How sure a mean over a few repeated runs is, and whether a difference is more than noise.

Bootstrap percentile intervals. With n values the plain bootstrap is too narrow by the factor
√((n − 1)/n); drawing resamples of n − 1 values removes that (Hesterberg 2015, "What Teachers
Should Know About the Bootstrap", https://doi.org/10.1080/00031305.2015.1089789). For a handful of
runs the interval remains a rough one: on normal values it covers the truth in 75 % of cases for 3
runs, 88 % for 5, 93 % for 8. Below three there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MIN_RUNS = 3
CONFIDENCE = 0.95
BUSY_FACTOR, SLIGHT_FACTOR = 1.25, 1.1
"""By how much the time of the same work changes when something else runs besides, and may
change without anybody asking why."""
_NUM_RESAMPLES = 4000
_FEW, _CHUNK = 1000, 100
"""So many values have their resamples kept; of more, so many resamples are drawn at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean or ratio with its 95 % interval; None where too few values say nothing."""

    mean: float
    low: float | None
    high: float | None
    num_values: int


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """The second group's mean minus the first's, with its 95 % confidence interval."""

    difference: float
    low: float | None
    high: float | None

    @property
    def is_within_noise(self) -> bool | None:
        """Say whether zero is in the interval; None where there are too few runs to tell."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0.0 <= self.high


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least one value and its interval."""
    mean = float(np.mean(values))
    if len(values) < MIN_RUNS:
        return Interval(mean, None, None, len(values))
    low, high = _bounds(_resampled_means(values, seed=0))
    return Interval(mean, low, high, len(values))


def mean_difference(reference: Sequence[float], values: Sequence[float]) -> MeanDifference:
    """Return how far the mean of `values` lies from that of `reference`."""
    difference = float(np.mean(values) - np.mean(reference))
    if min(len(reference), len(values)) < MIN_RUNS:
        return MeanDifference(difference, None, None)
    low, high = _bounds(_resampled_means(values, seed=1) - _resampled_means(reference, seed=2))
    rounding = 1e-12 * max(map(abs, (*reference, *values)))  # equal values leave no more than that
    return MeanDifference(difference, low - rounding, high + rounding)


def has_changed(times: Sequence[float], later: Sequence[float]) -> bool:
    """Say whether the same work took another time later: something else runs, or did.

    The one rule for a busy machine. Medians differ by a quarter, or by less but by more than both
    their intervals, where there are enough values for these.
    """
    one, other = float(np.median(times)), float(np.median(later))
    factor = max(one, other) / max(min(one, other), 1e-12)
    if factor > BUSY_FACTOR:
        return True
    if factor <= SLIGHT_FACTOR or min(len(times), len(later)) < MIN_RUNS:
        return False
    (low, high), (later_low, later_high) = (
        _bounds(_resampled_medians(values)) for values in (times, later)
    )
    return low > later_high or later_low > high


def ratio_interval(pairs: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return how many times as fast one side is as the other, paired: speeds are sums over sums.

    Args:
        pairs: [pairs, 4], for each pair amount and seconds of the one, amount and seconds of the
            other side; no column sums to 0.
        confidence: of the interval, where it shall be another one.
    """
    ratio = float(_ratios(pairs.sum(axis=0)))
    if len(pairs) < MIN_RUNS:
        return Interval(ratio, None, None, len(pairs))
    low, high = _bounds(_ratios(_resampled_sums(pairs)), confidence)
    return Interval(ratio, low, high, len(pairs))


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    ratios: NDArray[np.float64] = (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])
    return ratios


def _resampled_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [resamples, columns]: sums over rows drawn with replacement, alike for all columns."""
    # Not `@`: for four columns, BLAS takes longer to wake its threads than all of it takes.
    chunks = [np.einsum("rv,vc->rc", weights, values) for weights in _weights(len(values))]
    return np.concatenate(chunks)


@lru_cache(maxsize=4)
def _few_weights(count: int) -> NDArray[np.float64]:
    return _drawn_weights(np.random.default_rng(0), _NUM_RESAMPLES, count)


def _weights(count: int) -> Iterator[NDArray[np.float64]]:
    """Yield [some resamples, count]: how often each of `count` values is drawn into each."""
    if count <= _FEW:
        yield _few_weights(count)
        return
    rng = np.random.default_rng(0)
    for begin in range(0, _NUM_RESAMPLES, _CHUNK):
        yield _drawn_weights(rng, min(_CHUNK, _NUM_RESAMPLES - begin), count)


def _drawn_weights(rng: np.random.Generator, num: int, count: int) -> NDArray[np.float64]:
    return rng.multinomial(count - 1, np.full(count, 1 / count), size=num).astype(np.float64)


def _resampled_means(values: Sequence[float], seed: int) -> NDArray[np.float64]:
    """Return the means of resamples; seeded, so that a page shows the same on every rerun."""
    size = (_NUM_RESAMPLES, len(values) - 1)
    picks = np.random.default_rng(seed).integers(0, len(values), size)
    means: NDArray[np.float64] = np.asarray(values, np.float64)[picks].mean(axis=1)
    return means


def _resampled_medians(values: Sequence[float]) -> NDArray[np.float64]:
    picks = np.random.default_rng(0).integers(0, len(values), (_NUM_RESAMPLES, len(values) - 1))
    medians: NDArray[np.float64] = np.median(np.asarray(values, np.float64)[picks], axis=1)
    return medians


def _bounds(means: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
