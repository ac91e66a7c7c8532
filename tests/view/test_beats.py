"""A run told in beats: everything that happened, one thing at a time, forward and backward."""

from __future__ import annotations

import pytest

from specdec.records import Drafted, RoundResult, TokenStatus
from specdec.view.beats import Score
from specdec.view.playback import BEAT_S, Show
from specdec.view.run_view import RunView
from tests.made_runs import record, tiny_events


@pytest.fixture
def frames(tmp_path):
    return record(*tiny_events(tmp_path, seed=1, num_tokens=40)).frames


def state(view):
    return (view.rounds, view.pending, view.has_fallen, view.text.plain, view.summary)


def test_each_round_is_drafted_token_by_token_sent_judged_in_order_and_completed(frames):
    score = Score(str)
    score.extend(frames)
    drafts = {f.event.round: f.event for f in frames if isinstance(f.event, Drafted)}
    rounds = [f.event for f in frames if isinstance(f.event, RoundResult)]
    assert any(c.status is TokenStatus.REJECTED for r in rounds for c in r.candidates)
    for result in rounds:
        beats = iter(
            score.beats[score.round_ends[result.round] : score.round_ends[result.round + 1]]
        )
        if result.round == 0:
            next(beats)  # the prompt
        draft = drafts.get(result.round)
        if draft is None:  # no room for one before the limit of tokens
            assert next(beats).frame.event is result
            continue
        for count in range(1, len(draft.candidates) + 1):
            assert next(beats).draft.candidates == draft.candidates[:count]
        assert next(beats).frame.event is draft
        told = list(draft.candidates)
        for index, answer in enumerate(result.candidates):
            if answer.status is not TokenStatus.DISCARDED:
                told[index] = answer
                beat = next(beats)
                assert list(beat.draft.candidates) == told
                assert not beat.has_fallen
        if result.num_accepted < len(result.candidates):
            fall = next(beats)
            assert fall.has_fallen
            assert fall.draft.candidates == result.candidates
        assert next(beats).frame.event is result
        assert next(beats, None) is None


def test_frames_that_come_one_by_one_give_the_same_beats(frames):
    whole, grown = Score(str), Score(str)
    whole.extend(frames)
    for count in range(len(frames) + 1):
        grown.extend(frames[:count])
    assert grown.beats == whole.beats
    assert grown.round_ends == whole.round_ends


def test_slow_motion_skips_no_beat_however_late_it_is_drawn(frames):
    show = Show(str, None, in_beats=True)
    now_s, places = 10.0, []
    for step in range(400):
        show.advance(frames, now_s)
        places.append(show.place)
        now_s += BEAT_S * (1 + step % 3)
    assert places[: places[-1]] == list(range(1, places[-1] + 1))
    assert show.is_at_end(frames)


def test_beats_do_not_come_faster_than_one_can_look(frames):
    show = Show(str, None, in_beats=True)
    for now_s in (0.0, 0.1, 0.2, 0.3):
        show.advance(frames, now_s)
    assert show.place == 1


def test_a_step_back_shows_what_was_there_before(frames):
    forward, show = Show(str, None), Show(str, None)
    show.is_paused = forward.is_paused = True
    show.advance(frames, 0.0)
    forward.advance(frames, 0.0)
    show.seek(10_000)
    end = show.place
    for place in (end - 1, end // 2, end // 2 - 1, 1, 0):
        show.seek(place)
        forward.seek(0)
        for _ in range(place):
            forward.step(1)
        assert state(show.view) == state(forward.view)
        assert show.place == place


def test_whole_rounds_and_the_end_are_what_the_frames_say(frames):
    show, view = Show(str, None), RunView(str)
    show.is_paused = True
    show.advance(frames, 0.0)
    show.seek_round(3)
    assert [r.round for r in show.view.rounds] == [0, 1, 2]
    show.seek(10_000)
    for frame in frames:
        view.push(frame)
    assert state(show.view) == state(view)


def test_a_paused_show_stands_still_and_goes_on_where_it_stood(frames):
    show = Show(str, 1.0)
    show.advance(frames, 0.0)
    show.is_paused = True
    show.advance(frames, 1e6)
    assert show.place == 0
    show.is_paused = False
    show.advance(frames, 1e6)
    assert show.place <= 1


def test_a_draft_that_no_answer_followed_is_told_as_far_as_it_came(frames):
    cut = next(i for i, f in enumerate(frames) if isinstance(f.event, Drafted)) + 1
    score = Score(str)
    score.extend(frames[:cut])
    assert score.beats[-1].frame is frames[cut - 1]
