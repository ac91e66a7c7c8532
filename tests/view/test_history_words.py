"""What the history page says about figures and noise."""

from __future__ import annotations

import pytest

from specdec.runs.compare import KPIS, SettingDifference
from specdec.ui.history.compare import divided_html
from specdec.view.history_words import change, figure, setting_rows

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


def test_settings_have_the_words_of_the_page():
    differences = [
        SettingDifference("rtt_ms", (0.0, 20.0)),
        SettingDifference("prompt", ("a", "b")),
        SettingDifference("prompt_ids", ((1,), (2,))),
        SettingDifference("link is emulated", (False, True)),
        SettingDifference("environment.numpy", ("2.4", None)),
    ]
    assert setting_rows(differences, ["#1", "#2"]) == [
        {"": "Round trip, ms", "#1": "0.0", "#2": "20.0"},
        {"": "Prompt", "#1": "a", "#2": "b"},
        {"": "Link is emulated", "#1": "no", "#2": "yes"},
        {"": "Machine: numpy", "#1": "2.4", "#2": "–"},
    ]


@pytest.mark.parametrize(
    ("rest", "marked"),
    [
        (" waves of", " waves"),
        ("\n\nThe", "\n\nThe"),
        ("  ", "  "),
        ("", "⏹ ends here"),
        ("<b>" * 30, "&lt;b&gt;" * 6 + "&lt;b"),
    ],
)
def test_the_first_word_that_differs_is_marked(rest, marked):
    assert f"<mark>{marked}</mark>" in divided_html("same", rest)


def test_what_is_not_known_has_no_difference():
    assert change(BY_NAME["speedup"], None, 1.0) == ""
    assert figure(BY_NAME["speedup"], None) == "–"
