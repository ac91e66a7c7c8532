"""A whole run without a screen, followed frame by frame and left at any of them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from specdec.baseline import BLOCK_CALLS, WIDE_ROUNDS, WIDTHS, measure_block
from specdec.errors import ModelError, SettingsError, TargetError
from specdec.perform import Performance, Phase
from specdec.records import Drafted, FinishReason, LinkKind, Prefilled, RoundResult, RunSummary
from specdec.runs.compare import group_key
from specdec.settings import RunConfig
from tests.live.toys import SkippingToy, toy_load

CONFIG = RunConfig(target="toy", draft="layer-skip", max_tokens=40, temperature=1.0)
PROMPT = "the tin and the ant"


@pytest.fixture
def model():
    return SkippingToy()


@pytest.fixture
def prepare(tmp_path, model):
    """Return a function that prepares a performance of toys; "near" is another draft."""
    near = SkippingToy(noise=0.4)
    near.name = "near"
    load = toy_load(tmp_path, {"toy": model, "near": near})

    def make(config=CONFIG, prompt=PROMPT, **options):
        return Performance(config, prompt, load=load, **options)

    return make


def followed(performance):
    """Follow a performance to its end; return (phase at the frame, frame)."""
    return [(performance.phase, frame) for frame in performance.frames()]


def test_a_performance_measures_the_baseline_and_then_runs(prepare):
    performance = prepare()
    frames = followed(performance)
    phases = [phase for phase, _ in frames]
    baseline = [frame for phase, frame in frames if phase is Phase.BASELINE]
    own = [frame for phase, frame in frames if phase is not Phase.BASELINE]
    timed = [f.event for f in baseline if isinstance(f.event, RoundResult)]
    assert sum(not one.candidates for one in timed) == 2 * (BLOCK_CALLS + 1)
    wide = [one.num_drafted for one in timed if one.candidates]
    assert wide == [*WIDTHS] * WIDE_ROUNDS  # what longer drafts cost, after the run
    assert (phases[0], phases[-1]) == (Phase.BASELINE, Phase.BASELINE)  # before and after
    assert [type(f.event) for f in own[:2]] == [Prefilled, Drafted]
    assert isinstance(own[-1].event, RunSummary)
    assert performance.recorder.frames == own
    assert performance.phase is Phase.FINISHED
    run = performance.run()
    assert run.baseline == performance.baseline
    assert [len(block.calls_s) for block in run.baseline.blocks] == [BLOCK_CALLS, BLOCK_CALLS]
    assert [one.num_drafted for one in run.baseline.blocks[1].wide] == wide
    assert [width for width, _ in run.baseline.added_s] == sorted(WIDTHS)
    assert not run.baseline.had_company
    assert "".join(piece for frame in own for piece in frame.pieces) == run.text
    times = [frame.time_s for frame in own]
    assert times == sorted(times)


def test_phases_follow_the_events(prepare):
    expected = {Prefilled: Phase.DRAFTING, Drafted: Phase.VERIFYING, RoundResult: Phase.DRAFTING}
    for phase, frame in followed(prepare(with_baseline=False)):
        assert phase is expected.get(type(frame.event), Phase.FINISHED)


def test_a_performance_can_be_left_at_any_yield_and_what_there_is_is_a_run(prepare):
    whole = followed(prepare())
    for count in range(0, len(whole), 3):
        performance = prepare()
        with closing(performance.frames()) as frames:
            for _ in range(count):
                next(frames)
        run = performance.run()
        own = [f for phase, f in whole[:count] if phase is not Phase.BASELINE]
        assert (run is None) is (not own)
        if run is not None:
            is_whole = any(isinstance(f.event, RunSummary) for f in own)
            assert performance.phase.is_over is is_whole
            assert (run.summary.finish_reason is FinishReason.STOPPED) is not is_whole
            assert run.baseline == performance.baseline
            assert len(run.rounds) == sum(isinstance(f.event, RoundResult) for f in own)


def test_the_baseline_is_measured_with_what_the_run_began_and_ended_with(prepare, monkeypatch):
    measured = []

    def note(prompt, target, sampler, **options):
        measured.append((tuple(prompt), sampler.temperature))
        return measure_block(prompt, target, sampler, **options)

    monkeypatch.setattr("specdec.perform.measure_block", note)
    performance = prepare()
    for frame in performance.frames():
        if isinstance(frame.event, Prefilled) and performance.phase is Phase.DRAFTING:
            performance.change(replace(performance.config, temperature=0.25))
    assert measured == [(performance.prompt_ids, 1.0), (performance.prompt_ids, 0.25)]


def test_what_stops_working_after_the_run_takes_nothing_from_it(prepare, model):
    performance = prepare()
    for frame in performance.frames():
        if isinstance(frame.event, RunSummary) and performance.phase is Phase.FINISHED:
            model.fail_after = 0
    assert performance.phase is Phase.FINISHED
    assert len(performance.run().baseline.blocks) == 1


def test_two_runs_at_once_both_know_it_and_the_next_one_does_not(prepare):
    first, second, third = prepare(), prepare(), prepare()
    frames = first.frames()
    next(frames)
    followed(second)
    assert second.run().baseline.had_company
    for _ in frames:
        pass
    assert first.run().baseline.had_company
    followed(third)
    assert not third.run().baseline.had_company


SETTINGS = [
    ({"num_draft_tokens": 9}, {}),
    ({}, {"temperature": 0.4}),
    ({}, {"top_p": 0.6}),
    ({}, {"top_k": 7}),
    ({"num_draft_tokens": 1}, {"temperature": 0.0}),
]


@pytest.mark.parametrize("when", ["before it is opened", "after it is opened"])
@pytest.mark.parametrize(("k", "sampler"), SETTINGS)
def test_what_is_stored_is_what_the_first_round_ran_with(prepare, when, k, sampler):
    """A setting changed between the press of the button and the first round is what was asked."""
    asked = replace(CONFIG, **k, **sampler)
    performance = prepare()
    if when == "after it is opened":
        performance.open()
    performance.change(asked)
    followed(performance)
    run = performance.run()
    assert run.config == asked
    assert {r.settings for r in run.rounds} == {run.rounds[0].settings}
    assert run.changes == ()

    straight = prepare(asked)
    followed(straight)
    assert straight.run().token_ids == run.token_ids
    assert group_key(straight.run()) == group_key(run)  # a repetition of the same


def test_another_draft_before_the_first_round_is_the_draft_of_the_run(prepare):
    performance = prepare()
    performance.open()
    performance.draft_with(performance.open_drafter("ngram"))
    followed(performance)
    run = performance.run()
    assert (run.config.draft, run.draft.name) == ("ngram", "ngram")
    assert {r.drafter for r in run.rounds} == {"ngram"}


def test_what_changes_later_is_told_by_the_rounds(prepare):
    performance = prepare(with_baseline=False)
    count = 0
    for frame in performance.frames():
        count += isinstance(frame.event, RoundResult)
        if count == 2:
            asked = {"num_draft_tokens": 5, "temperature": 0.5, "top_p": 0.8}
            performance.change(replace(CONFIG, **asked))
    run = performance.run()
    assert run.config == CONFIG
    (change,) = run.changes
    assert (change.round, change.now.num_draft_tokens, change.now.top_p) == (2, 5, 0.8)


SHAPES = ["2-1", "auto", "best", ""]


def test_policy_rule_and_shape_may_change_while_the_run_goes_on(prepare):
    """Each takes effect in the next round, is told by it, and leaves the text the target's."""
    config = replace(CONFIG, temperature=0.0, max_tokens=60)
    asked = [replace(config, tree=shape, policy="adaptive", rule="block") for shape in SHAPES]
    performance, straight = prepare(config, with_baseline=False), prepare(config)
    for frame in performance.frames():
        if isinstance(frame.event, RoundResult) and frame.event.round % 3 == 2 and asked:
            now = asked.pop(0)
            performance.change(now)
            performance.draft_with(performance.open_drafter(now.draft, now.tree))
    run = performance.run()
    told = dict.fromkeys((r.drafter, r.tree, r.policy, r.rule) for r in run.rounds)
    name = config.draft
    assert list(told) == [
        (name, "", "fixed", "token"),
        *((name, shape, "adaptive", "block") for shape in SHAPES),
    ]
    assert [change.now.drafter for change in run.changes] == [
        f"{name} {shape}".rstrip() for shape in SHAPES
    ]
    followed(straight)
    assert run.token_ids == straight.run().token_ids


def test_another_shape_before_the_first_round_is_the_shape_of_the_run(prepare):
    performance = prepare()
    performance.open()
    performance.draft_with(performance.open_drafter(CONFIG.draft, "2-1"))
    followed(performance)
    run = performance.run()
    assert (run.config.draft, run.config.tree, run.drafting) == (
        CONFIG.draft,
        "2-1",
        f"{CONFIG.draft} 2-1",
    )
    assert run.draft.digest == straight_digest(prepare)


def straight_digest(prepare):
    performance = prepare()
    followed(performance)
    return performance.run().draft.digest


def test_an_empty_prompt_is_refused_before_anything_is_loaded():
    def load(name, backend):
        raise AssertionError("loaded")

    with pytest.raises(SettingsError, match="prompt is empty"):
        next(Performance(CONFIG, " \n", load=load).frames())


def test_a_model_that_fails_in_the_baseline_raises_and_leaves_no_run(prepare, model):
    model.fail_after = 3
    performance = prepare()
    with pytest.raises(TargetError, match="wind it up"):
        followed(performance)
    assert performance.run() is None


def test_a_model_that_fails_later_ends_the_run_with_what_was_written(prepare, model):
    model.fail_after = 60
    performance = prepare()
    followed(performance)
    assert performance.phase is Phase.FAILED
    run = performance.run()
    assert run.rounds
    assert "wind it up" in run.summary.error == performance.error


def test_a_fault_of_ours_is_raised_and_what_was_written_says_so(prepare, model):
    performance = prepare()

    def follow_until_it_breaks():
        for frame in performance.frames():
            if performance.phase is Phase.VERIFYING and frame.event.round == 3:
                model.forward = None

    with pytest.raises(TypeError):
        follow_until_it_breaks()
    run = performance.run()
    assert len(run.rounds) == 3
    assert run.summary.finish_reason is FinishReason.ERROR


def test_a_draft_that_cannot_be_opened_leaves_the_settings_as_they_were(prepare):
    performance = prepare()
    performance.open()
    before = performance.settings
    with pytest.raises(ModelError, match="no model nothing"):
        performance.open_drafter("nothing")
    assert performance.settings is before


def test_plain_decoding_of_the_same_target_is_recorded_beside_the_run(prepare):
    performance = prepare(replace(CONFIG, temperature=0.0))
    followed(performance)
    frames = list(performance.plain_frames())
    assert performance.plain.frames == frames
    plain = performance.plain.run()
    assert plain.token_ids == performance.run().token_ids
    assert (plain.config.draft, plain.config.num_draft_tokens, plain.draft.name) == (
        "none",
        0,
        "none",
    )
    assert plain.summary.num_draft_tokens == 0


def test_the_link_is_named_from_the_start(prepare):
    assert prepare(replace(CONFIG, rtt_ms=1.0)).link_kind is LinkKind.EMULATED
    performance = prepare()
    followed(performance)
    assert performance.link_kind is LinkKind.NONE
