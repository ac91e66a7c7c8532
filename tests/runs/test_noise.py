"""Intervals hold what they promise, as far as a few runs can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.runs.noise import MIN_RUNS, mean_difference, mean_interval

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@given(values)
def test_the_mean_lies_in_its_interval(sample):
    interval = mean_interval(sample)
    assert interval.num_values == len(sample)
    if interval.low is None:
        assert len(sample) < MIN_RUNS
    else:
        slack = 1e-9 * (1 + abs(interval.mean))
        assert interval.low - slack <= interval.mean <= interval.high + slack


@given(st.floats(-1e6, 1e6), st.integers(MIN_RUNS, 9))
def test_runs_without_noise_leave_no_doubt(value, count):
    interval = mean_interval([value] * count)
    assert interval.low == pytest.approx(interval.high)
    assert mean_difference([value] * count, [value] * (count + 1)).is_within_noise is True


def test_the_same_runs_give_the_same_interval():
    """So many values that other resamples would give other bounds."""
    runs = np.random.default_rng(1).normal(20.0, 1.0, 8)
    assert mean_interval(runs) == mean_interval(runs)
    assert mean_difference(runs[:4], runs[4:]) == mean_difference(runs[:4], runs[4:])


@pytest.mark.parametrize(("count", "coverage"), [(3, 0.75), (5, 0.88), (8, 0.93), (20, 0.94)])
def test_intervals_cover_the_truth_about_as_often_as_documented(count, coverage):
    """With 300 seeded repetitions, a fixed outcome; the bound is three standard errors."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(0.0, 1.0, count)) for _ in range(300)]
    covered = np.mean([interval.low <= 0.0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(coverage, abs=3 * (coverage * (1 - coverage) / 300) ** 0.5)


def test_a_clear_difference_is_no_noise_and_none_is():
    slow, fast = [10.0, 10.4, 9.8, 10.1], [14.9, 15.2, 15.0, 15.4]
    assert mean_difference(slow, fast).is_within_noise is False
    assert mean_difference(slow, fast).difference == pytest.approx(5.05)
    assert mean_difference(slow, [10.2, 9.9, 10.0, 10.3]).is_within_noise is True


def test_too_few_runs_tell_nothing():
    assert mean_difference([10.0, 11.0], [20.0, 21.0, 22.0]).is_within_noise is None
