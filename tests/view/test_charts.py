"""The charts' data; their specifications hold none."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.metrics import Baseline, summarise
from specdec.records import FinishReason, RoundResult
from specdec.runs.recording import Frame
from specdec.view import charts
from specdec.view.run_view import RunView, mean_acceptance
from tests.made_runs import tiny_events

SPECS = ["gauge", "speedup", "speed", "latency", "position", "histogram"]


@pytest.fixture
def view(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=60, k=4)
    view = RunView(str)
    for event in events:
        size = len(event.emitted) if isinstance(event, RoundResult) else 0
        view.push(Frame(event, ("x",) * size))
    return view


@pytest.mark.parametrize("name", SPECS)
def test_a_specification_is_built_once_and_holds_no_data(name):
    build = getattr(charts, f"{name}_spec")
    assert build() is build()
    assert '"data"' not in json.dumps(build())


@pytest.mark.parametrize(
    ("rate", "color"),
    [
        (0.0, charts.RED),
        (0.49, charts.RED),
        (0.5, charts.YELLOW),
        (0.75, charts.YELLOW),
        (0.76, charts.GREEN),
        (1.0, charts.GREEN),
    ],
)
def test_the_gauge_is_red_below_50_and_green_above_75_percent(rate, color):
    data = charts.gauge_data(rate, 3)
    assert data["color"][0] == color
    assert data["value"].sum() == 1


def test_the_gauge_of_nothing_drafted_shows_no_rate():
    assert charts.gauge_data(None, 0)["text"][0] == "–"


def test_each_speed_up_names_its_baseline():
    baseline = Baseline(num_tokens=10, decode_s=2.0, link_s=1.0)
    rows = charts.speedup_data(10.0, baseline, has_link=True)
    assert dict(zip(rows["against"], rows["speedup"], strict=True)) == {
        "one call per token, same link": 2.0,
        "target alone, no link": 1.0,
    }
    alone = charts.speedup_data(10.0, baseline, has_link=False)
    assert list(alone["against"]) == ["target decoding plainly"]
    assert charts.speedup_data(None, baseline, has_link=True).empty


def test_the_parts_of_a_round_add_up_to_its_wall_time(view):
    data = charts.latency_data(view.rounds)
    assert data["round"].nunique() == min(charts.LATENCY_ROUNDS, len(view.rounds))
    for result in view.rounds[-charts.LATENCY_ROUNDS :]:
        parts = data[data["round"] == result.round + 1]["ms"]
        assert parts.sum() == pytest.approx(1e3 * result.wall_s)


def test_the_speed_curve_keeps_its_last_point_and_marks_changes(view):
    baseline = Baseline(num_tokens=10, decode_s=2.0, link_s=1.0)
    data = charts.speed_data(view.points, baseline, True, [2])
    assert data["round"].dropna().max() >= len(view.rounds)
    named = data.dropna(subset="baseline")
    assert list(named["baseline"]) == [5.0, 10.0]
    # A missing text would be drawn as "null".
    assert list(named["above"] + named["below"]) == [
        "one call per token, same link",
        "target alone, no link",
    ]
    assert list(data[data["opacity"] == 1]["changed"]) == [3]


@given(st.integers(0, 2000))
def test_a_long_curve_is_thinned_out_evenly(count):
    points = list(range(count))
    thin = charts.thin_out(points)
    assert len(thin) <= charts.MAX_POINTS
    assert thin[-1:] == points[-1:]
    assert len({b - a for a, b in itertools.pairwise(thin)}) <= 1


def test_prediction_and_measurement_agree_at_the_first_position_of_a_chain(view):
    summary = summarise(
        view.rounds, num_prompt_tokens=1, prefill_s=0.0, finish_reason=FinishReason.LENGTH
    )
    alpha = mean_acceptance(view.rounds)
    data = charts.position_data(summary, alpha)
    predicted = data[data["kind"] == "predicted"]["rate"]
    assert list(predicted) == [pytest.approx(alpha**n) for n in range(1, len(predicted) + 1)]
    assert charts.histogram_data(summary)["rounds"].sum() == summary.num_spec_steps


def test_alpha_is_the_share_of_tests_passed(view):
    tests = [c for r in view.rounds for c in r.candidates if c.acceptance_prob is not None]
    passed = sum(c.status == "accepted" for c in tests)
    assert mean_acceptance(view.rounds) == pytest.approx(passed / len(tests))
    assert mean_acceptance([]) is None


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_at_or_above_its_values_and_not_far(value):
    end = charts.round_up(value)
    assert value * (1 - 1e-6) <= end <= 2.5 * value * (1 + 1e-6)
    assert math.isfinite(end)


def test_the_totals_of_a_view_are_those_of_its_rounds(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=60, k=4)
    growing = RunView(str)
    for event in events[:-1]:
        size = len(event.emitted) if isinstance(event, RoundResult) else 0
        growing.push(Frame(event, ("x",) * size))
        summary = summarise(
            growing.rounds, num_prompt_tokens=0, prefill_s=0.0, finish_reason=FinishReason.STOPPED
        )
        for field in fields(summary):
            ours, theirs = getattr(growing.summary, field.name), getattr(summary, field.name)
            assert ours == pytest.approx(theirs) if isinstance(ours, float) else ours == theirs
        assert growing.mean_acceptance == mean_acceptance(growing.rounds)
    growing.push(Frame(events[-1]))
    assert growing.summary == events[-1]
