"""The charts of a run looked at closely: what they are given to draw."""

from __future__ import annotations

from specdec.runs.worth import Costs, Forecast
from specdec.view import study_charts
from specdec.view.inspector import Bar


def test_the_forecast_chart_marks_the_best_and_the_measured():
    prediction = Forecast(
        costs=Costs(0.01, 0.04, 0.002, 0.0),
        acceptance=(0.8, 0.5),
        num_nodes=(0.0, 1.0, 2.0),
        tokens_per_s=(25.0, 34.6, 33.8),
        measured=((0, 25.0), (2, 33.0)),
    )
    data = study_charts.forecast_data(prediction)
    by_kind = {
        kind: list(zip(rows["k"], rows["tokens_per_s"], strict=True))
        for kind, rows in data.groupby("kind")
    }
    assert by_kind == {
        "predicted": [(0, 25.0), (1, 34.6), (2, 33.8)],
        "measured": [(0, 25.0), (2, 33.0)],
        "best": [(1, 34.6)],
    }
    assert min(data["end"]) > 34.6


def test_a_side_that_gave_no_probability_has_no_bar():
    data = study_charts.sides_data([Bar("a", 0.5, 0.2, None), Bar("b", None, 0.8, 1.0)])
    rows = list(zip(data["token"], data["order"], data["side"], data["prob"], strict=True))
    assert rows == [
        ("a", 0, "draft q", 0.5),
        ("a", 0, "target p", 0.2),
        ("b", 1, "target p", 0.8),
        ("b", 1, "residual", 1.0),
    ]
