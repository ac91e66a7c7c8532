"""What the history page says about figures and noise."""

from __future__ import annotations

import pytest

from specdec.compare import KPIS
from specdec.ui.history_words import change, figure

BY_NAME = {kpi.name: kpi for kpi in KPIS}


@pytest.mark.parametrize(
    ("name", "value", "base", "said"),
    [
        ("tokens_per_s", 30.0, 20.0, "+50 %, better"),
        ("tokens_per_s", 10.0, 20.0, "−50 %, worse"),
        ("ttft_s", 0.1, 0.2, "−50 %, better"),
        ("draft_acceptance_rate", 0.5, 0.4, "+10 points, better"),
        ("num_tokens", 150.0, 100.0, "+50 %"),
        ("tokens_per_s", 20.01, 20.0, "same"),
    ],
)
def test_a_difference_says_how_much_and_whether_it_is_better(name, value, base, said):
    assert change(BY_NAME[name], value, base) == said


def test_a_rate_that_fell_to_nothing_is_worse_by_all_of_it():
    assert change(BY_NAME["draft_acceptance_rate"], 0.0, 0.5) == "−50 points, worse"
    assert change(BY_NAME["tokens_per_s"], 0.0, 20.0) == "−100 %, worse"


def test_what_is_not_known_has_no_difference():
    assert change(BY_NAME["speedup"], None, 1.0) == ""
    assert figure(BY_NAME["speedup"], None) == "–"
