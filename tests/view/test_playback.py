"""What is shown, and when: the engine's clock, stretched."""

from __future__ import annotations

import pytest

from specdec.records import RoundResult
from specdec.runs.recording import Frame, frame_time_s
from specdec.view.playback import Playhead, Show
from tests.made_runs import tiny_events


@pytest.fixture
def frames(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=40)
    return [Frame(e, ("x",) * len(getattr(e, "emitted", ()))) for e in events]


def test_live_shows_all_that_has_come(frames):
    show = Show(str, None)
    show.advance(frames[:5], 0.0)
    assert show.is_at_end(frames[:5])
    show.advance(frames, 0.1)
    assert show.is_at_end(frames)
    assert len(show.view.rounds) == sum(isinstance(f.event, RoundResult) for f in frames)


def test_slow_motion_shows_what_is_due_on_the_stretched_clock(frames):
    times = [frame_time_s(frame) for frame in frames]
    middle_s = times[len(times) // 2]
    show = Show(str, 0.1)
    show.advance(frames, 100.0)
    assert not show.view.rounds
    show.advance(frames, 100.0 + 10 * middle_s + 1e-9)
    due = sum(isinstance(f.event, RoundResult) and frame_time_s(f) <= middle_s for f in frames)
    assert len(show.view.rounds) == due
    show.advance(frames, 100.0 + 20 * max(times))
    assert show.is_at_end(frames)


def test_a_frame_that_was_shown_stays_shown_when_the_speed_changes(frames):
    show = Show(str, None)
    show.advance(frames[:9], 0.0)
    before = list(show.view.rounds)
    show.playhead.set_speed(0.001)
    show.advance(frames, 0.5)
    assert show.view.rounds[: len(before)] == before


def test_the_playhead_waits_for_the_engine():
    head = Playhead(1.0)
    head.position_s(0.0, 1.0)
    assert head.position_s(5.0, 2.0) == 2.0
    assert head.position_s(5.5, 9.0) == 2.5
