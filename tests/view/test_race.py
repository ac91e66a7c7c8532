"""Two recordings on one clock, and who was faster."""

from __future__ import annotations

from specdec.runs.noise import Interval
from specdec.runs.speedup import Speedup
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


def test_the_result_tells_both_times_and_the_pages_one_speed_up():
    ours, theirs = Lap(60, 2.0, True), Lap(60, 4.2, True)
    speedup = Speedup(Interval(2.0, 1.9, 2.1, 32), Interval(1.0, 0.9, 1.1, 32), "")
    said = result_words(ours, theirs, "emulated", speedup)
    assert said == (
        "Speculative decoding wrote 60 tokens in 2.0 s over the emulated link, plain decoding 60 "
        "in 4.2 s. The speed-up, as above: 2.00 (1.90–2.10) times."
    )
    assert "times" not in result_words(ours, Lap(0, 0.0, True), "", None)
