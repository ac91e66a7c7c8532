"""A saved run tells the same story as the engine did."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from specdec.records import RunSummary
from specdec.runs.replay import frames_of
from specdec.saved.trace import dump_trace, parse_trace
from tests.made_runs import record, runs, tiny_events


def test_the_events_of_a_saved_run_are_those_of_the_engine(tmp_path):
    pair, events = tiny_events(tmp_path, seed=1, num_tokens=60, k=4)
    run = parse_trace(dump_trace(record(pair, events).run()))
    assert [frame.event for frame in frames_of(run)] == events


def test_events_come_in_the_order_and_at_the_times_they_were_measured(tmp_path):
    pair, events = tiny_events(tmp_path, seed=2, num_tokens=30)
    times = [frame.time_s for frame in frames_of(record(pair, events).run())]
    assert times == sorted(times)
    assert times[0] == events[0].prefill_s
    assert times[-1] >= events[-2].started_s + events[-2].wall_s


def test_a_run_stopped_at_any_event_can_be_played(tmp_path):
    pair, events = tiny_events(tmp_path, seed=3, num_tokens=12)
    for end in range(len(events)):
        played = frames_of(record(pair, events[:end]).run())
        assert isinstance(played[-1].event, RunSummary)


def test_totals_alone_are_one_moment(tmp_path):
    run = record(*tiny_events(tmp_path, seed=3, num_tokens=12)).run()
    bare = replace(run, rounds=(), pieces=(run.text,), token_texts={})
    assert [frame.event for frame in frames_of(bare)] == [run.summary]


@settings(max_examples=20)
@given(runs())
def test_any_run_can_be_played(run):
    assert frames_of(run)[-1].event == run.summary
