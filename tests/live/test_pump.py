"""A run in a thread of its own: whatever ends it, what there is of it is handed over."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from specdec.errors import StoreError
from specdec.live import handshake
from specdec.live.pump import LiveRun
from specdec.perform import Phase
from specdec.records import Drafted, FinishReason, RoundResult
from specdec.runs.steps import Step
from specdec.settings import RunConfig
from tests.live.toys import SkippingToy, finished, frames_of, toy_shelf, wait_for

CONFIG = RunConfig(target="toy", max_tokens=40, temperature=1.0)


@pytest.fixture
def begin(tmp_path):
    """Return a function that starts a run of toys; `saved` holds what it hands over."""

    def start(config=CONFIG, *, shelf=None, save=None, **options):
        saved = []
        live = LiveRun(
            config,
            "the tin and the ant",
            shelf=shelf or toy_shelf(tmp_path),
            save=save or saved.append,
            **options,
        )
        live.saved = saved
        return live.start()

    return start


@pytest.fixture
def slow_shelf(tmp_path):
    """Return a shelf whose weights are a quarter here, and the event that brings the rest."""
    shelf = toy_shelf(tmp_path)
    arrived = threading.Event()
    load = shelf._load
    shelf._load = lambda *key, progress: (
        (progress(1, 4, "fetching"), arrived.wait(20)) and load(*key, progress=progress)
    )
    return shelf, arrived


def test_a_run_that_ends_by_itself_is_handed_over_whole(begin):
    live = finished(begin())
    assert live.performance.phase is Phase.FINISHED
    assert live.saved == [live.run]
    assert live.run.summary.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    texts = [piece for frame in frames_of(live) for piece in frame.pieces]
    assert "".join(texts) == live.run.text


def test_nothing_is_measured_before_the_page_that_shows_it_stands(begin):
    live = begin(is_shown=True)
    wait_for(lambda: live.performance.pair is not None)
    live.page_drawn(10.0)  # the tree stands from here on
    live.page_asked(10.0 + 0.5 * handshake.PAGE_SETTLES_S)  # another widget, in the meantime
    live.join(0.2)
    assert (live.performance.phase, live.performance.baseline) == (Phase.LOADING, None)
    live.page_asked(10.0 + handshake.PAGE_SETTLES_S)
    assert finished(live).performance.phase is Phase.FINISHED


def test_the_page_may_come_to_stand_while_weights_are_loaded(slow_shelf, begin):
    shelf, arrived = slow_shelf
    live = begin(shelf=shelf, is_shown=True)
    live.page_drawn(0.0)
    live.page_asked(handshake.PAGE_SETTLES_S)
    arrived.set()
    assert finished(live).performance.phase is Phase.FINISHED


def test_progress_of_weights_is_not_yet_the_page(slow_shelf, begin):
    shelf, arrived = slow_shelf
    live = begin(shelf=shelf, is_shown=True)
    live.page_drawn(0.0)
    wait_for(lambda: live.arrival is not None)
    live.progress_drawn()  # where the tree was
    arrived.set()
    wait_for(lambda: live.performance.pair is not None)
    live.page_asked(100.0)
    live.page_drawn(100.0)
    live.join(0.2)
    assert live.performance.phase is Phase.LOADING
    live.page_asked(100.0 + handshake.PAGE_SETTLES_S)
    assert finished(live).performance.phase is Phase.FINISHED


def test_the_steps_before_the_first_token_are_told_and_timed(slow_shelf, begin):
    shelf, arrived = slow_shelf
    live = begin(replace(CONFIG, rtt_ms=5.0), shelf=shelf)
    wait_for(lambda: live.steps.taken and live.steps.taken[0].seconds > 0.1)
    assert [(one.step, one.is_present) for one in live.steps.taken] == [(Step.FETCH, True)]
    arrived.set()
    finished(live)
    taken = {one.step: one.seconds for one in live.steps.taken}
    assert list(taken) == [Step.FETCH, Step.PAGE, Step.READ, Step.BASELINE]
    before, _ = live.run.baseline.blocks
    assert taken[Step.BASELINE] >= sum(before.calls_s)
    assert taken[Step.READ] >= live.run.summary.prefill_s
    assert live.steps.has_ended


def test_a_redraw_can_wait_for_the_first_round(begin):
    live = begin(is_shown=True)
    began_s = time.monotonic()
    live.await_first_round(20.0)  # nothing is about to come: the page does not stand yet
    assert time.monotonic() - began_s < 10.0
    wait_for(lambda: live.performance.pair is not None)
    live.page_drawn(0.0)
    live.page_asked(handshake.PAGE_SETTLES_S)
    live.await_first_round(20.0)
    assert any(isinstance(frame.event, RoundResult) for frame in frames_of(live))
    finished(live)
    live.await_first_round(20.0)
    assert time.monotonic() - began_s < 20.0


def test_a_page_that_nobody_looks_at_is_not_waited_for_for_ever(begin, monkeypatch):
    monkeypatch.setattr(handshake, "PAGE_WAIT_S", 0.2)
    assert finished(begin(is_shown=True)).performance.phase is Phase.FINISHED


def test_a_stop_ends_the_wait_for_the_page(begin):
    live = begin(is_shown=True)
    live.stop()
    live.join(1.0)
    assert (live.performance.phase, live.is_alive, live.saved) == (Phase.STOPPED, False, [])


def num_calls(live):
    frames = frames_of(live)
    return sum(isinstance(frame.event, Drafted) for frame in frames)


def test_across_a_link_a_redraw_can_wait_for_a_draft_to_leave(begin):
    live = begin(replace(CONFIG, rtt_ms=30.0))
    wait_for(lambda: num_calls(live) > 1)
    before, began_s = num_calls(live), time.monotonic()
    live.await_call(20.0)
    assert num_calls(live) > before
    assert time.monotonic() - began_s < 10.0
    live.stop()


@pytest.mark.parametrize("change", [{}, {"rtt_ms": 1.0, "num_draft_tokens": 0}])
def test_without_a_link_or_a_draft_there_is_nothing_to_wait_for(begin, tmp_path, change):
    gate = threading.Semaphore(40)
    shelf = toy_shelf(tmp_path, SkippingToy(gate=gate))
    live = begin(replace(CONFIG, max_tokens=120, **change), shelf=shelf)
    wait_for(lambda: len(frames_of(live)) > 2 and gate._value == 0)
    # And there it stays, at the gate.
    assert live.performance.phase in (Phase.DRAFTING, Phase.VERIFYING)
    began_s = time.monotonic()
    live.await_call(10.0)
    assert time.monotonic() - began_s < 5.0
    live.stop()
    for _ in range(500):
        gate.release()


def test_when_a_run_is_over_there_is_nothing_to_wait_for(begin):
    live = finished(begin(replace(CONFIG, rtt_ms=1.0)))
    began_s = time.monotonic()
    live.await_call(10.0)
    assert time.monotonic() - began_s < 5.0


def test_the_baseline_is_measured_anew_for_each_run_and_over_its_link(begin):
    first, again = finished(begin()), finished(begin())
    farther = finished(begin(replace(CONFIG, rtt_ms=1.0)))
    assert first.run.baseline != again.run.baseline
    assert all(len(one.run.baseline.blocks) == 2 for one in (first, again, farther))
    assert farther.performance.baseline.link_s > 0


def test_a_stop_while_the_baseline_is_measured_once_more_leaves_the_run_finished(begin, tmp_path):
    model = SkippingToy(gate=threading.Semaphore(10_000))
    live = begin(shelf=toy_shelf(tmp_path, model))
    performance = live.performance
    wait_for(lambda: performance.recorder is not None and performance.recorder.is_finished)
    model.gate._value = 0
    live.stop()
    for _ in range(100):
        model.gate.release()
    finished(live)
    assert performance.phase is Phase.FINISHED
    assert live.saved == [live.run]


def test_stop_ends_a_run_within_a_round_and_keeps_what_there_is(begin, tmp_path):
    gate = threading.Semaphore(10_000)
    model = SkippingToy(gate=gate)
    live = begin(replace(CONFIG, max_tokens=4000), shelf=toy_shelf(tmp_path, model))
    wait_for(lambda: len(frames_of(live)) > 6)
    live.stop()
    finished(live)
    assert live.performance.phase is Phase.STOPPED
    assert live.saved == [live.run]
    assert live.run.summary.finish_reason is FinishReason.STOPPED
    frames = frames_of(live)
    assert live.run.rounds == tuple(f.event for f in frames if isinstance(f.event, RoundResult))


def test_stop_takes_effect_while_the_weights_are_on_their_way(begin, slow_shelf):
    shelf, arrived = slow_shelf
    live = begin(shelf=shelf)
    wait_for(lambda: live.arrival is not None)
    assert live.arrival.fraction == 0.25
    live.stop()
    finished(live)
    arrived.set()
    assert (live.performance.phase, live.run, live.saved) == (Phase.STOPPED, None, [])


def test_a_model_that_cannot_be_opened_is_an_error_with_its_sentence(begin):
    live = finished(begin(replace(CONFIG, target="broken")))
    assert live.performance.phase is Phase.FAILED
    assert live.error == "There is no model broken; choose another."


def test_a_target_that_fails_half_way_keeps_the_rounds_before(begin, tmp_path):
    model = SkippingToy()
    model.fail_after = 60
    live = finished(begin(shelf=toy_shelf(tmp_path, model)))
    assert live.performance.phase is Phase.FAILED
    assert "wind it up" in live.error
    assert live.run.rounds
    assert live.run.summary.finish_reason is FinishReason.ERROR
    assert live.saved == [live.run]


def test_a_fault_of_our_own_is_said_and_what_there_is_is_kept(begin, tmp_path, caplog):
    model = SkippingToy()
    live = begin(replace(CONFIG, max_tokens=4000), shelf=toy_shelf(tmp_path, model))
    wait_for(lambda: len(frames_of(live)) > 4)
    model.forward = None
    finished(live)
    assert live.performance.phase is Phase.FAILED
    assert "inside SpeculatoViz" in live.error
    assert live.run.rounds
    assert caplog.records


def test_new_settings_take_effect_in_the_next_round(begin, tmp_path):
    gate = threading.Semaphore(30)
    model = SkippingToy(gate=gate)
    live = begin(replace(CONFIG, max_tokens=120), shelf=toy_shelf(tmp_path, model))
    wait_for(lambda: live.performance.phase is Phase.VERIFYING and gate._value == 0)
    live.change(replace(live.config, num_draft_tokens=7, temperature=0.5, draft="ngram"))
    wait_for(lambda: live.performance.settings.drafter.name == "ngram")
    for _ in range(500):
        gate.release()
    finished(live)
    seen = [(r.num_draft_tokens, r.temperature, r.drafter) for r in live.run.rounds]
    first, *between, last = dict.fromkeys(seen)
    assert (first, last) == ((3, 1.0, "layer-skip"), (7, 0.5, "ngram"))
    # The drafter is fetched beside the run, which may begin a round in the meantime.
    assert set(between) <= {(7, 0.5, "layer-skip")}


def test_another_shape_of_the_same_draft_is_opened_beside_the_run(begin, tmp_path):
    gate = threading.Semaphore(30)
    live = begin(replace(CONFIG, max_tokens=120), shelf=toy_shelf(tmp_path, SkippingToy(gate=gate)))
    wait_for(lambda: live.performance.phase is Phase.VERIFYING and gate._value == 0)
    live.change(replace(live.config, tree="2-1"))
    wait_for(lambda: live.performance.settings.drafter.tree == "2-1")
    for _ in range(500):
        gate.release()
    finished(live)
    assert list(dict.fromkeys(r.drafting for r in live.run.rounds)) == [
        "layer-skip",
        "layer-skip 2-1",
    ]


def test_a_draft_that_cannot_be_opened_leaves_the_run_as_it_was(begin, tmp_path):
    gate = threading.Semaphore(30)
    model = SkippingToy(gate=gate)
    shelf = toy_shelf(tmp_path, model)
    live = begin(replace(CONFIG, max_tokens=120), shelf=shelf)
    wait_for(lambda: live.performance.recorder is not None and gate._value == 0)
    live.change(replace(live.config, draft="nothing"))
    wait_for(lambda: live.notice is not None)
    for _ in range(500):
        gate.release()
    finished(live)
    assert "no model nothing" in live.notice
    assert live.performance.phase is Phase.FINISHED
    assert {r.drafter for r in live.run.rounds} == {"layer-skip"}


def test_a_race_runs_plain_decoding_of_the_same_target_afterwards(begin):
    live = finished(begin(replace(CONFIG, temperature=0.0), race=True))
    assert live.performance.phase is Phase.FINISHED
    rounds = live.performance.plain.rounds
    assert all(not r.candidates for r in rounds)
    assert tuple(i for r in rounds for i in r.emitted) == live.run.token_ids
    assert live.saved == [live.run]


def test_a_store_that_refuses_is_a_notice_and_no_failure(begin):
    def refuse(run):
        raise StoreError("The disk is full; make room.")

    live = finished(begin(save=refuse))
    assert live.performance.phase is Phase.FINISHED
    assert "The disk is full" in live.notice
