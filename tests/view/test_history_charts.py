"""The scatter of a comparison: a spot for each run that drafted, and no more is claimed."""

from __future__ import annotations

import pytest

from specdec.saved.rows import COLUMNS, StoredRun
from specdec.view import history_charts as charts
from specdec.view.palette import OTHER_COLOR


def line(**facts) -> StoredRun:
    return StoredRun(**(dict.fromkeys(COLUMNS) | facts))


def test_each_run_that_drafted_is_a_spot_and_later_ones_are_grey():
    fast = line(id=1, draft="ngram", num_draft_tokens=3, tokens_per_s=20.0, draft_acceptance_rate=0)
    slow = line(id=2, draft="suffix", tokens_per_s=9.0, draft_acceptance_rate=0.5, speedup=0.8)
    third = line(id=3, draft="<b>", tokens_per_s=12.0, draft_acceptance_rate=0.25)
    data = charts.scatter_data({"#1": fast, "#2": slow, "#3": third}, num_colored=2)
    assert data[["run", "acceptance", "speed"]].values.tolist() == [
        ["#1", 0, 20.0],
        ["#2", 0.5, 9.0],
        ["#3", 0.25, 12.0],
    ]
    assert data["color"].tolist() == [*charts.COLORS[:2], OTHER_COLOR]


@pytest.mark.parametrize(
    "missing", [{"tokens_per_s": None}, {"draft_acceptance_rate": None}], ids=["speed", "drafts"]
)
def test_what_is_not_known_is_no_spot(missing):
    known = {"id": 1, "tokens_per_s": 20.0, "draft_acceptance_rate": 0.5}
    assert charts.scatter_data({"#1": line(**(known | missing))}, 12).empty


def test_the_chart_carries_no_data():
    assert not {"data", "datasets"} & set(charts.scatter_spec())
