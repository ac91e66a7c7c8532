"""How sure a speed-up is: against times whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specdec.metrics import Baseline, Block, Totals
from specdec.records import RoundResult
from specdec.runs.compare import KPIS
from specdec.runs.noise import has_changed
from specdec.runs.speedup import (
    MIN_CALLS,
    call_interval,
    interval_words,
    measure_speedup,
    speedup_of,
)
from specdec.view.figures import figures, verdict
from tests.made_runs import tiny_events, tiny_run

CALL_S, ROUND_S = 0.05, 0.08


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    _, events = tiny_events(tmp_path_factory.mktemp("model"), seed=1, num_tokens=120, k=4)
    return [event for event in events if isinstance(event, RoundResult)]


def timed(rounds, times):
    return [replace(r, wall_s=float(t)) for r, t in zip(rounds, times, strict=True)]


def block(times, link_s=0.0):
    return Block(tuple(map(float, times)), (link_s,) * len(times))


def noisy(rng, seconds, count):
    """Return times of which one in eight is three times as long, in fits of a few calls."""
    slow = np.repeat(rng.random(-(-count // 3)) < 1 / 8, 3)[:count]
    return seconds * np.where(slow, 3.0, 1.0) * rng.normal(1.0, 0.05, count)


def measured(rounds, times, *blocks, **facts):
    made = timed(rounds, times)
    return measure_speedup(made, Totals(made).summary(), Baseline.of_blocks(*blocks, **facts))


def test_without_noise_it_is_tokens_per_round_times_the_costs(rounds):
    calls = block([CALL_S] * 16, link_s=0.02)
    found = measured(rounds, [ROUND_S] * len(rounds), calls, calls)
    tokens = sum(len(r.emitted) for r in rounds)
    truth = tokens / len(rounds) * CALL_S / ROUND_S
    for interval, factor in ((found.over_link, 1.0), (found.alone, 0.6)):
        assert interval.mean == pytest.approx(factor * truth)
        assert (interval.low, interval.high) == pytest.approx((factor * truth, factor * truth))
    assert found.disturbance == ""


def test_one_slow_call_moves_nothing(rounds):
    times = [ROUND_S] * len(rounds)
    times[3] = 5.0
    calls = block([CALL_S] * 8 + [4.0] + [CALL_S] * 8)
    still = measured(rounds, [ROUND_S] * len(rounds), block([CALL_S] * 16))
    assert measured(rounds, times, calls).over_link.mean == still.over_link.mean


def test_the_same_run_made_again_agrees_within_its_intervals(rounds):
    rng = np.random.default_rng(5)
    found = [
        measured(
            rounds,
            noisy(rng, ROUND_S, len(rounds)),
            block(noisy(rng, CALL_S, 16)),
            block(noisy(rng, CALL_S, 16)),
        ).over_link
        for _ in range(60)
    ]
    truth = np.median([one.mean for one in found])
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.9
    pairs = zip(found[::2], found[1::2], strict=True)
    assert all(a.low <= b.high and b.low <= a.high for a, b in pairs)
    assert np.median([one.high / one.low for one in found]) < 1.25  # and still says something


def test_rounds_of_different_length_are_no_noise(rounds):
    times = [ROUND_S * (1 + r.num_drafted) for r in rounds]
    calls = block([CALL_S] * 16)
    found = measured(rounds, times, calls, calls).over_link
    assert found.low == pytest.approx(found.high)


def test_a_baseline_that_changed_is_said_and_is_in_the_interval(rounds):
    times = [ROUND_S] * len(rounds)
    quick, slow = block([CALL_S] * 16), block([2 * CALL_S] * 16)
    found = measured(rounds, times, quick, slow)
    assert "busy" in found.disturbance
    assert "50 ms before this run and 100 ms after" in found.disturbance
    for one in (quick, slow):
        alone = measured(rounds, times, one).over_link
        assert found.over_link.low <= alone.mean <= found.over_link.high


def test_company_is_said(rounds):
    times, calls = [ROUND_S] * len(rounds), block([CALL_S] * 16)
    assert "Another run" in measured(rounds, times, calls, had_company=True).disturbance


def test_times_that_say_nothing_are_said(rounds):
    rng = np.random.default_rng(0)
    times = ROUND_S * rng.choice([1.0, 6.0], len(rounds))
    calls = block(CALL_S * rng.choice([1.0, 6.0], 16))
    assert "busy" in measured(rounds, times, calls, calls).disturbance


@pytest.mark.parametrize("num_rounds", [0, 1, MIN_CALLS - 1])
def test_a_run_of_a_few_rounds_has_none_anywhere(tmp_path, num_rounds):
    run = tiny_run(tmp_path, num_tokens=80)
    few = run.rounds[:num_rounds]
    pieces = run.pieces[: sum(len(r.emitted) for r in few)]
    calls = block([CALL_S] * 16)
    short = replace(
        run,
        rounds=few,
        pieces=pieces,
        summary=Totals(few).summary(),
        baseline=Baseline.of_blocks(calls, calls),
    )
    assert speedup_of(short) is None
    (kpi,) = (one for one in KPIS if one.name == "speedup")
    assert (kpi.value(short), kpi.interval(short)) == (None, None)
    strip = figures(short.summary, speedup_of(short), max_tokens_per_call=5, link="")
    assert strip[1].value == "–"
    assert "times plain" not in verdict(short, "")


def test_a_baseline_of_an_older_file_has_a_speed_up_without_an_interval(rounds):
    made = timed(rounds, [ROUND_S] * len(rounds))
    summary = Totals(made).summary()
    old = Baseline(num_tokens=16, decode_s=16 * CALL_S, link_s=0.0)
    found = measure_speedup(made, summary, old).over_link
    assert found.mean == pytest.approx(summary.tokens_per_s * CALL_S)
    assert (found.low, found.high) == (None, None)
    assert interval_words(found) == f"{found.mean:.2f}"
    assert call_interval(old).low is None


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ([1.0] * 16, [1.0] * 16, False),
        ([1.0] * 16, [1.09] * 16, False),  # who would ask why
        ([1.0] * 16, [1.15] * 16, True),  # beyond both intervals
        ([0.7, 1.0, 1.1, 1.4] * 4, [0.9, 1.1, 1.3, 1.6] * 4, False),  # within them
        ([1.0] * 16, [1.3] * 16, True),
        ([1.3] * 16, [1.0] * 16, True),
        ([1.0, 1.0], [1.2], False),  # too few for an interval
        ([1.0, 1.0], [1.3], True),
    ],
)
def test_the_one_rule_for_a_busy_machine(before, after, changed):
    assert has_changed(before, after) is changed
