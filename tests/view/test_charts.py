"""The charts' data; their specifications hold none."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.metrics import Baseline, Totals
from specdec.runs.noise import Interval
from specdec.runs.speedup import Speedup
from specdec.view import charts, lanes_chart
from specdec.view.run_view import Change, RunView
from tests.made_runs import record, tiny_events

SPECS = ["gauge", "speedup", "speed", "latency", "position", "histogram"]


@pytest.fixture
def view(tmp_path):
    view = RunView(str)
    for frame in record(*tiny_events(tmp_path, seed=1, num_tokens=60, k=4)).frames:
        view.push(frame)
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
    data = charts.gauge_data(rate)
    assert data["color"][0] == color
    assert data["value"].sum() == 1


def test_the_gauge_of_nothing_drafted_shows_no_rate():
    assert charts.gauge_data(None)["text"][0] == "–"


def test_each_speed_up_names_its_baseline():
    speedup = Speedup(Interval(2.0, 1.8, 2.2, 32), Interval(1.0, None, None, 1), "")
    rows = charts.speedup_data(speedup, has_link=True)
    assert dict(zip(rows["against"], rows["speedup"], strict=True)) == {
        "one call per token, same link": 2.0,
        "target alone, no link": 1.0,
    }
    alone = charts.speedup_data(speedup, has_link=False)
    assert list(alone["against"]) == ["target decoding plainly"]
    nothing = charts.speedup_data(None, has_link=True)
    assert list(nothing["speedup"]) == [0.0, 0.0]
    assert list(nothing["text"]) == ["–", "–"]


def test_the_parts_of_a_round_add_up_to_its_wall_time(view):
    data = charts.latency_data(view.rounds)
    assert data["round"].nunique() == min(charts.LATENCY_ROUNDS, len(view.rounds))
    for result in view.rounds[-charts.LATENCY_ROUNDS :]:
        parts = data[data["round"] == result.round + 1]["ms"]
        assert parts.sum() == pytest.approx(1e3 * result.wall_s)


def test_the_speed_curve_keeps_its_last_point_and_marks_changes(view):
    baseline = Baseline(num_tokens=10, decode_s=2.0, link_s=1.0)
    data = charts.speed_data(view.points, baseline, True, [Change(2, "K 5")])
    assert data["round"].dropna().max() >= len(view.rounds)
    named = data[(data["opacity"] == 1) & data["baseline"].notna()]
    assert list(named["baseline"]) == [5.0, 10.0]
    # A missing text would be drawn as "null".
    assert list(named["above"] + named["below"]) == [
        "one call per token, same link",
        "target alone, no link",
    ]
    assert data[(data["opacity"] == 1) & data["changed"].notna()][
        ["changed", "change"]
    ].values.tolist() == [[3, "K 5"]]
    assert data["so_far"].dropna().iloc[-1] == pytest.approx(view.summary.tokens_per_s)


def test_axes_have_an_extent_before_the_first_round():
    speed = charts.speed_data([], None, has_link=False)
    assert speed[["round", "tokens_per_s", "so_far", "end"]].notna().any().all()
    assert charts.latency_data([])[["ms", "end"]].notna().all().all()


def test_a_change_of_a_setting_is_said_in_words_at_its_round(view):
    before, after = view.rounds[0], view.rounds[1]
    assert Change.between(before, after) is None
    warmer = dataclasses.replace(after, temperature=0.25, num_draft_tokens=7)
    assert Change.between(before, warmer) == Change(1, "K 7, temperature 0.25")


def test_the_lanes_of_a_run_follow_each_other_and_fill_its_rounds(view):
    data = lanes_chart.lanes_data(view.rounds)
    for result in view.rounds:
        pieces = data[data["round"] == result.round + 1]
        assert pieces["ms"].sum() == pytest.approx(1e3 * result.wall_s)
        assert list(pieces["begin_s"][1:]) == list(pieces["end_s"][:-1])
        drafting = pieces[pieces["part"] == "draft"]["ms"].sum()
        assert drafting == pytest.approx(1e3 * min(result.draft_s, result.wall_s))
    assert lanes_chart.lanes_spec() is lanes_chart.lanes_spec()


@given(st.integers(0, 2000))
def test_a_long_curve_is_thinned_out_evenly(count):
    points = list(range(count))
    thin = charts.thin_out(points)
    assert len(thin) <= charts.MAX_POINTS
    assert thin[-1:] == points[-1:]
    assert len({b - a for a, b in itertools.pairwise(thin)}) <= 1


def test_positions_are_measured_round_by_round_and_predicted_by_powers(view):
    data = charts.position_data(view.summary, 0.5)
    drafted = [r for r in view.rounds if r.candidates]
    reached = [sum(r.num_accepted > place for r in drafted) for place in range(4)]
    assert reached[0] > reached[3] > 0
    measured, predicted = (data[data["kind"] == kind]["rate"] for kind in ("measured", "predicted"))
    assert list(measured) == [pytest.approx(count / len(drafted)) for count in reached]
    assert list(predicted) == [0.5, 0.25, 0.125, 0.0625]
    assert set(charts.position_data(view.summary, None)["kind"]) == {"measured"}


def test_the_histogram_counts_rounds_by_how_much_they_accepted(view):
    counted = [r.num_accepted for r in view.rounds if r.candidates]
    data = charts.histogram_data(view.summary)
    assert list(data["rounds"]) == [counted.count(length) for length in range(5)]


def test_alpha_is_the_share_of_tests_passed(view):
    tests = [c for r in view.rounds for c in r.candidates if c.acceptance_prob is not None]
    passed = sum(c.status == "accepted" for c in tests)
    assert view.mean_acceptance == pytest.approx(passed / len(tests))
    assert RunView(str).mean_acceptance is None


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_at_or_above_its_values_and_not_far(value):
    end = charts.round_up(value)
    assert value * (1 - 1e-6) <= end <= 2.5 * value * (1 + 1e-6)
    assert math.isfinite(end)


def test_the_totals_of_a_view_are_those_of_its_rounds_until_the_engine_gives_its_own(tmp_path):
    *frames, end = record(*tiny_events(tmp_path, seed=1, num_tokens=60, k=4)).frames
    growing = RunView(str)
    for frame in frames:
        growing.push(frame)
        assert growing.summary == Totals(growing.rounds).summary()
    growing.push(end)
    assert growing.summary == end.event
    assert growing.summary.num_tokens == 60
