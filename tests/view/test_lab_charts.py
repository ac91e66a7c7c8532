"""The charts of a sweep show what it came to, and their specifications are sound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.lab.plan import PLAIN_ARM, Arm
from specdec.lab.results import Condition, Outcome
from specdec.runs.noise import Interval
from specdec.view import lab_charts as charts

HOSTILE = "<img src=x onerror=alert(1)>"


def outcome(arm, times, *, low=None, best=False, alike=False, predicted=False, wasted=0.0):
    return Outcome(
        arm,
        8,
        Interval(times, low, None if low is None else 2 * times - low, 8),
        30 * times,
        None if arm.is_plain else 0.5,
        is_best=best,
        is_within_noise=alike,
        is_predicted=predicted,
        wasted=wasted,
    )


OUTCOMES = (
    outcome(Arm("b", 2), 1.5, low=1.4, best=True, alike=True, wasted=0.5),
    outcome(Arm("b", 4), 1.45, low=1.3, alike=True, predicted=True, wasted=1.5),
    outcome(Arm("a", 2), 1.2, low=1.1, wasted=0.2),
    outcome(PLAIN_ARM, 1.0, low=1.0),
    outcome(Arm("a", 4), 0.7, low=0.6, wasted=2.0),
)


def test_each_arm_is_a_cell_with_its_signs():
    data = charts.heat_data({Condition(0.0, 50.0): OUTCOMES}, "round trip")
    rows = {(row.row, row.k): row for row in data.itertuples()}
    best = rows["b · 50 ms", 2]
    assert (best.text, best.alike, best.known) == ("★ 1.50", True, "measured")
    assert best.interval == "1.40 – 1.60"
    assert rows["b · 50 ms", 4].known == "predicted"
    assert not rows["a · 50 ms", 2].alike
    order = data.sort_values("order")["row"].drop_duplicates().tolist()
    assert order == ["plain decoding · 50 ms", "a · 50 ms", "b · 50 ms"]
    temperatures = charts.heat_data({Condition(0.7, 50.0): OUTCOMES}, "temperature")
    assert "a · temperature 0.7" in set(temperatures["row"])
    assert charts.heat_height_px(data) < charts.heat_height_px(
        charts.heat_data({Condition(0.0, r): OUTCOMES for r in (0.0, 50.0)}, "round trip")
    )


def test_too_few_prompts_are_no_interval_and_no_frame():
    few = (replace(OUTCOMES[0], speedup=Interval(1.5, None, None, 2)),)
    (row,) = charts.heat_data({Condition(0.0, 0.0): few}, "temperature").itertuples()
    assert (row.interval, row.alike) == ("too few prompts", False)


@pytest.mark.parametrize(
    ("times", "color"),
    [(1.0, "#64748b"), (2.0, "#1d4ed8"), (9.0, "#1d4ed8"), (0.5, "#b45309"), (0.0, "#b45309")],
)
def test_blue_is_faster_and_orange_slower(times, color):
    assert charts.heat_color(times) == color


def test_white_is_readable_on_every_colour():
    def light(color):
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for percent in range(30, 250, 5):
        assert 1.05 / (light(charts.heat_color(percent / 100)) + 0.05) > 4.4


def test_the_front_is_what_no_arm_beats_in_both():
    data = charts.pareto_data(OUTCOMES)
    assert data[data["front"]]["arm"].tolist() == ["plain decoding, K = 0", "a, K = 2", "b, K = 2"]
    assert data["text"].tolist() == ["plain decoding", "K 2", "K 2", "b", "a"]
    assert data["color"].nunique() == 3


def test_acceptance_is_a_line_for_each_class():
    data = charts.position_data({"code": (0.8, 0.5), HOSTILE: (0.4,)})
    assert data["rate"].tolist() == [0.8, 0.5, 0.4]
    assert data["end"].tolist() == ["code", "", HOSTILE]


@pytest.mark.parametrize("spec", [charts.heat_spec, charts.position_spec, charts.pareto_spec])
def test_specifications_carry_no_data(spec):
    made = spec()
    assert "layer" in made
    assert "data" not in made
    assert "datasets" not in made
