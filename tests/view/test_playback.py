"""What is shown, when and how often: the engine's clock, stretched."""

from __future__ import annotations

import pytest

from specdec.records import RoundResult
from specdec.view.playback import (
    REDRAW_COST_S,
    REDRAW_EVERY_S,
    REDRAW_SHARE,
    Playhead,
    Show,
    Turns,
    live_pace_s,
)
from tests.made_runs import record, tiny_events


@pytest.fixture
def frames(tmp_path):
    return record(*tiny_events(tmp_path, seed=1, num_tokens=40)).frames


def test_live_shows_all_that_has_come(frames):
    show = Show(str, None)
    show.advance(frames[:5], 0.0)
    assert show.is_at_end(frames[:5])
    show.advance(frames, 0.1)
    assert show.is_at_end(frames)
    assert len(show.view.rounds) == sum(isinstance(f.event, RoundResult) for f in frames)


def test_slow_motion_shows_what_is_due_on_the_stretched_clock(frames):
    times = [frame.time_s for frame in frames]
    middle_s = times[len(times) // 2]
    show = Show(str, 0.1)
    show.advance(frames, 100.0)
    assert not show.view.rounds
    show.advance(frames, 100.0 + 10 * middle_s + 1e-9)
    due = sum(isinstance(f.event, RoundResult) and f.time_s <= middle_s for f in frames)
    assert len(show.view.rounds) == due
    show.advance(frames, 100.0 + 20 * max(times))
    assert show.is_at_end(frames)


def test_a_frame_that_was_shown_stays_shown_when_the_speed_changes(frames):
    show = Show(str, None)
    show.advance(frames[:9], 0.0)
    before = list(show.view.rounds)
    assert before
    show.playhead.set_speed(1e-9)
    show.advance(frames, 0.5)
    assert show.view.rounds == before


def test_the_playhead_waits_for_the_engine():
    head = Playhead(1.0)
    head.position_s(0.0, 1.0)
    assert head.position_s(5.0, 2.0) == 2.0
    assert head.position_s(5.5, 9.0) == 2.5


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 8, 64])
def test_redraws_take_their_share_of_the_machine_at_most(num_cpus):
    pace_s = live_pace_s(num_cpus)
    assert pace_s >= REDRAW_EVERY_S
    assert REDRAW_COST_S / (pace_s * num_cpus) <= REDRAW_SHARE * (1 + 1e-9)


def test_a_large_machine_is_redrawn_as_often_as_the_eye_wants():
    assert live_pace_s(16) == REDRAW_EVERY_S


def test_charts_are_made_anew_in_turn_and_all_of_them_at_first():
    turns = Turns()
    shown = [turns.take([lambda part=part, at=at: (part, at) for part in "abc"]) for at in range(5)]
    assert shown == [
        [("a", 0), ("b", 0), ("c", 0)],
        [("a", 1), ("b", 0), ("c", 0)],
        [("a", 1), ("b", 2), ("c", 0)],
        [("a", 1), ("b", 2), ("c", 3)],
        [("a", 4), ("b", 2), ("c", 3)],
    ]
