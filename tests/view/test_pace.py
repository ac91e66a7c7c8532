"""Where plain decoding would be by now: in the text at temperature 0, beside it above."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.metrics import Baseline
from specdec.records import TokenRecord, TokenStatus
from specdec.runs.speedup import MIN_CALLS, measure_speedup
from specdec.view.pace import Pace, pace_html, plain_pace
from specdec.view.run_view import RunView
from specdec.view.text import TokenText
from tests.made_runs import record, tiny_events


@pytest.fixture
def view(tmp_path):
    view = RunView(str)
    for frame in record(*tiny_events(tmp_path, seed=1, num_tokens=60, k=4)).frames:
        view.push(frame)
    return view


@pytest.mark.parametrize("times", [0.5, 1.0, 4.0])
def test_plain_decoding_is_as_far_behind_as_the_speed_up_says(view, times):
    call_s = times * view.summary.decode_s / 60
    baseline = Baseline(num_tokens=100, decode_s=100 * call_s, link_s=0.0)
    headline = measure_speedup(view.rounds, view.summary, baseline)
    pace = plain_pace(view, baseline)
    assert pace == Pace(round(60 / headline.over_link.mean), is_in_text=False)
    view.rounds = [replace(one, temperature=0.0) for one in view.rounds]
    assert plain_pace(view, baseline).is_in_text
    assert plain_pace(view, None) is None


def test_before_there_is_a_speed_up_the_clock_of_the_run_decides(tmp_path):
    view = RunView(str)
    for frame in record(*tiny_events(tmp_path, seed=1, num_tokens=60, k=4)).frames[:7]:
        view.push(frame)
    seconds = view.summary.decode_s
    assert 0 < view.summary.num_target_calls < MIN_CALLS
    baseline = Baseline(num_tokens=100, decode_s=100 * seconds / 2.5, link_s=0.0)
    assert plain_pace(view, baseline).num_tokens == 2


def test_the_caret_stands_before_the_token_that_plain_decoding_would_write_next():
    text = TokenText(lambda token_id: ["a", "\\xf0", "\\x9f\\x98\\x80", "b"][token_id])
    records = [TokenRecord(i, -1, i, TokenStatus.ACCEPTED) for i in range(4)]
    text.push(records, ["a", "", "😀", "b"], 1)
    assert [text.label_after(count) for count in range(5)] == [1, 3, 3, 4, None]
    assert '[data-n="3"]::before' in pace_html(Pace(1, is_in_text=True), text)
    assert 'data-n="3"' in text.tail()


@pytest.mark.parametrize(
    ("pace", "has_caret"), [(Pace(1, False), False), (Pace(1, True), True), (Pace(9, True), False)]
)
def test_only_a_slower_plain_decoding_of_the_same_text_has_a_caret(pace, has_caret):
    text = TokenText(str)
    records = [TokenRecord(i, -1, i, TokenStatus.ACCEPTED) for i in range(4)]
    text.push(records, ["a", "b", "c", "d"], 1)
    html = pace_html(pace, text)
    assert ("<style>" in html) is has_caret
    assert f"{pace.num_tokens}" in html
    assert "measured pace" in html
    assert pace_html(None, text) == '<div class="pace"></div>'
