"""A run can be taken at any moment, and is whole at each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.errors import SettingsError
from specdec.metrics import Baseline
from specdec.records import FinishReason, RoundResult, RunSummary
from specdec.runs.recorder import RunRecorder
from specdec.runs.run import Run
from tests.made_runs import PROMPT, record, tiny_events, tiny_pair


def test_the_recorded_run_holds_what_the_engine_said(tmp_path):
    pair, events = tiny_events(tmp_path, seed=3, num_tokens=40)
    run = record(pair, events).run()
    assert run.rounds == tuple(e for e in events if isinstance(e, RoundResult))
    assert run.summary == events[-1]
    assert run.text == pair.tokenizer.decode(run.token_ids)
    assert len(run.pieces) == len(run.token_ids)
    assert run.prompt == PROMPT
    assert run.target.name == pair.target.name


def test_a_run_can_be_taken_after_every_event(tmp_path):
    pair, events = tiny_events(tmp_path, seed=4, num_tokens=12)
    recorder = record(pair, [])
    for event in events:
        recorder.add(event)
        run = recorder.run()
        assert sum(len(r.emitted) for r in run.rounds) == run.summary.num_tokens
        ended = isinstance(event, RunSummary)
        assert (run.summary.finish_reason is FinishReason.STOPPED) is not ended
        assert recorder.is_finished is ended


def test_every_token_of_every_record_has_a_text(tmp_path):
    pair, events = tiny_events(tmp_path, seed=5, num_tokens=12)
    run = record(pair, events).run()
    shown = {
        token_id
        for result in run.rounds
        for one in (*result.candidates, *([result.final] if result.final else []))
        for token_id in (one.token_id, *(top.token_id for top in one.top_tokens))
    }
    assert {i: pair.tokenizer.token_text(i) for i in shown} == run.token_texts


def test_a_failure_of_the_consumer_becomes_an_error_run(tmp_path):
    pair, events = tiny_events(tmp_path, seed=6, num_tokens=12)
    summary = record(pair, events[:4]).run(error="The window was closed.").summary
    assert summary.finish_reason is FinishReason.ERROR
    assert summary.error == "The window was closed."


def test_changed_settings_are_marked_where_they_begin(tmp_path):
    run = record(*tiny_events(tmp_path, seed=8, num_tokens=30)).run()
    rounds = list(run.rounds)
    rounds[2:] = [replace(r, num_draft_tokens=7) for r in rounds[2:]]
    changes = replace(run, rounds=tuple(rounds)).changes
    assert [(c.round, c.now.num_draft_tokens) for c in changes] == [(2, 7)]
    assert run.changes == ()


def test_a_half_character_at_the_end_shows_as_a_replacement(tmp_path):
    pair = tiny_pair(tmp_path)
    token_id = pair.tokenizer.encode("€")[0]
    pair2, events = tiny_events(tmp_path, seed=9, num_tokens=5)
    result = next(e for e in events if isinstance(e, RoundResult))
    recorder = record(pair2, [replace(result, emitted=(token_id,)), events[-1]])
    assert recorder.run().text == "\N{REPLACEMENT CHARACTER}"


def test_a_baseline_may_come_at_any_time(tmp_path):
    recorder = record(*tiny_events(tmp_path, seed=3, num_tokens=5))
    recorder.add_baseline(Baseline(4, 0.5, 0.0))
    assert recorder.run().baseline == Baseline(4, 0.5, 0.0)


def test_the_heading_is_the_title_or_the_prompt_on_one_line(tmp_path):
    run: Run = record(*tiny_events(tmp_path, seed=3, num_tokens=5)).run()
    assert replace(run, prompt="a\n b" + "c" * 200).heading == "a b" + "c" * 76 + "…"
    assert replace(run, title="Mine").heading == "Mine"


@pytest.mark.parametrize("change", [{"note": "a\0b"}, {"started_at": "yesterday"}])
def test_what_cannot_be_stored_is_refused_at_construction(tmp_path, change):
    run = record(*tiny_events(tmp_path, seed=3, num_tokens=5)).run()
    with pytest.raises(SettingsError):
        replace(run, **change)


def test_the_recorder_needs_no_run_to_have_begun(tmp_path):
    recorder = RunRecorder.start(
        record(tiny_pair(tmp_path), []).run().config, "x", [1], tiny_pair(tmp_path)
    )
    run = recorder.run()
    assert run.text == ""
    assert run.summary.num_tokens == 0
