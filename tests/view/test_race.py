"""Two recordings on one clock, and who was faster."""

from __future__ import annotations

import pytest

from specdec.view.race import Lap, Race, result_words
from tests.made_runs import record, tiny_events


def test_both_runners_start_together_and_each_keeps_its_own_time(tmp_path):
    frames = record(*tiny_events(tmp_path, seed=1, num_tokens=30)).frames
    half = frames[: len(frames) // 2]
    race = Race(str, (frames, half), 1.0)
    race.advance(10.0)
    race.advance(10.0)
    assert [lap.num_tokens for lap in race.laps()] == [0, 0]
    race.advance(1e6)
    ours, theirs = race.laps()
    assert race.is_over
    assert ours.seconds >= theirs.seconds > 0
    assert ours.num_tokens > theirs.num_tokens


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (Lap(60, 2.0, True), Lap(60, 4.0, True), "2.00 times as many tokens per second"),
        (Lap(60, 4.0, True), Lap(60, 2.0, True), "plain decoding was 2.00 times as fast"),
        (Lap(0, 0.0, True), Lap(0, 0.0, True), "wrote 0 tokens"),
    ],
)
def test_the_result_names_the_winner_and_the_link(ours, theirs, said):
    words = result_words(ours, theirs, "emulated")
    assert said in words
    assert "over the emulated link" in words
