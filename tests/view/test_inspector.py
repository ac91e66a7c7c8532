"""A run looked at closely: its steps, its forecast, its audit and its race."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.metrics import Baseline, summarise
from specdec.records import FinishReason, RoundResult, TokenStatus
from specdec.runs import audit, worth
from specdec.runs.recording import Frame
from specdec.sampling import Sampler
from specdec.view import inspector, study_charts
from specdec.view.race import Lap, Race, result_words
from specdec.view.run_view import mean_acceptance
from tests.made_runs import runs, tiny_events, tiny_pair


@pytest.fixture
def rounds(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=120, k=4)
    return [event for event in events if isinstance(event, RoundResult)]


def greedy_rounds(folder, k, drafter=None):
    pair = tiny_pair(folder)
    settings = RoundSettings(drafter or pair.drafter, k, Sampler(0.0))
    events = generate([5, 6], pair.target, settings, max_tokens=40)
    return [event for event in events if isinstance(event, RoundResult)]


def totals(rounds):
    return summarise(rounds, num_prompt_tokens=1, prefill_s=0.0, finish_reason=FinishReason.LENGTH)


def text_of(token_id):
    return f"t{token_id}"


# The inspector


def test_every_step_of_a_round_is_told_with_its_own_numbers(rounds):
    for result in rounds:
        told = list(inspector.steps(result, text_of))
        tested = [c for c in result.candidates if c.uniform is not None]
        for record in tested:
            sentence = next(s for s in told if s.startswith(f"“t{record.token_id}”: the target"))
            assert f"{record.target_prob:.3f}" in sentence
            assert sentence.endswith(f": {record.status}.")
        assert told[-1].startswith(f"So one call of the target gave {len(result.emitted)} ")
        resampled = result.final.status is TokenStatus.RESAMPLED
        assert any("residual" in s for s in told) is resampled
        assert any("bonus" in s for s in told) is not resampled


def test_a_greedy_round_is_told_without_probabilities(tmp_path):
    for result in greedy_rounds(tmp_path, 4):
        told = " ".join(inspector.steps(result, text_of))
        assert "p/q" not in told
        assert ("likeliest token too" in told) is bool(result.num_accepted)


def test_a_round_of_plain_decoding_has_a_story_too(tmp_path):
    result = greedy_rounds(tmp_path, 0, NoDrafter())[0]
    told = list(inspector.steps(result, text_of))
    assert told[0].startswith("Nothing was drafted")
    assert inspector.bars(result, result.position, text_of)


def test_the_residual_of_the_bars_is_what_target_wants_and_draft_under_rated(rounds):
    seen = 0
    for result in rounds:
        rejected = [c for c in result.candidates if c.status is TokenStatus.REJECTED]
        for record in inspector.places(result):
            bars = inspector.bars(result, record.position, text_of)
            with_residual = [bar for bar in bars if bar.residual_prob is not None]
            if record not in rejected:
                assert not with_residual
                continue
            seen += 1
            mass = 1 - record.expected_acceptance
            for bar in with_residual:
                expected = max(0.0, bar.target_prob - (bar.draft_prob or 0.0)) / mass
                assert bar.residual_prob == pytest.approx(expected)
            assert sum(bar.residual_prob for bar in with_residual) <= 1 + 1e-6
            final = f"t{result.final.token_id}"
            assert final in [bar.token for bar in bars]
    assert seen


def test_the_table_has_one_line_for_each_candidate_and_one_for_the_final_token(rounds):
    for result in rounds:
        rows = inspector.candidate_rows(result, text_of)
        assert len(rows) == result.num_drafted + 1
        for row, record in zip(rows, result.candidates, strict=False):
            tested = record.acceptance_prob is not None
            assert (row.ratio is not None) is tested
            if tested:
                assert min(1.0, row.ratio) == pytest.approx(row.acceptance_prob)


@settings(max_examples=60)
@given(runs())
def test_no_run_that_a_file_can_hold_is_too_strange_to_be_told(run):
    for result in run.rounds:
        list(inspector.steps(result, run.token_text))
        inspector.candidate_rows(result, run.token_text)
        for record in inspector.places(result):
            inspector.bars(result, record.position, run.token_text)
    audit.check_acceptance(run.rounds)
    if run.baseline is not None:
        alpha = mean_acceptance(run.rounds)
        prediction = worth.forecast(run.rounds, run.summary, alpha, run.baseline)
        assert prediction is None or worth.reason(prediction)


def test_a_log_probability_that_is_none_is_read_as_certainty(rounds):
    result = replace(rounds[0], temperature=0.0, candidates=(), final=rounds[0].final)
    strange = replace(result, final=replace(result.final, target_logprob=1e308, top_tokens=()))
    [bar] = inspector.bars(strange, strange.final.position, text_of)
    assert bar.target_prob == 1.0


# Is it worth it?


def timed(rounds, draft_s, call_s, extra_s, link_s=0.0):
    """Return the rounds as a machine with these costs would have run them."""
    return [
        replace(
            r,
            draft_s=draft_s * r.num_drafted,
            verify_s=call_s + extra_s * r.num_drafted + link_s,
            link_s=link_s,
            wall_s=draft_s * r.num_drafted + call_s + extra_s * r.num_drafted + link_s,
        )
        for r in rounds
    ]


def predict(rounds, draft_s, call_s, extra_s, link_s=0.0):
    here = timed(rounds, draft_s, call_s, extra_s, link_s)
    baseline = Baseline(10, 10 * (call_s + link_s), 10 * link_s)
    return worth.forecast(here, totals(here), mean_acceptance(here), baseline)


def test_the_costs_of_a_run_are_found_again(rounds):
    costs = predict(rounds, 0.01, 0.04, 0.002, 0.05).costs
    assert costs.draft_s == pytest.approx(0.01)
    assert costs.call_s == pytest.approx(0.04)
    assert costs.extra_s == pytest.approx(0.002)
    assert costs.link_s == pytest.approx(0.05)


def test_k_0_is_the_baseline_itself(rounds):
    prediction = predict(rounds, 0.01, 0.04, 0.002, 0.05)
    assert prediction.tokens_per_s[0] == pytest.approx(1 / 0.09)
    assert prediction.measured[0] == (0, pytest.approx(1 / 0.09))
    assert prediction.measured[1][0] == 4


def test_the_prediction_meets_the_measurement_at_the_k_that_was_run(rounds):
    prediction = predict(rounds[:-1], 0.01, 0.04, 0.002)
    assert prediction.tokens_per_s[4] == pytest.approx(prediction.measured[1][1], rel=0.02)


def test_an_expensive_draft_is_not_worth_it_and_a_free_one_is(rounds):
    dear, free = predict(rounds, 1.0, 0.04, 0.0), predict(rounds, 0.0, 0.04, 0.0)
    assert dear.best == 0
    assert worth.reason(dear).startswith("Plain decoding (K = 0) is best here")
    assert free.best == 16
    assert worth.reason(free).startswith("K = 16 is best here")


def test_a_slow_link_makes_longer_drafts_worth_it(rounds):
    near, far = (predict(rounds, 0.01, 0.04, 0.002, link_s) for link_s in (0.0, 0.5))
    assert far.best > near.best
    assert "500 ms of network" in worth.reason(far)


def test_without_a_draft_there_is_no_forecast(tmp_path):
    plain = greedy_rounds(tmp_path, 0, NoDrafter())
    assert worth.forecast(plain, totals(plain), None, Baseline(1, 1.0, 0.0)) is None


def test_rounds_that_took_no_time_predict_nothing(rounds):
    still = timed(rounds, 0.0, 0.0, 0.0)
    here = worth.forecast(still, totals(still), 0.5, Baseline(10, 1.0, 1.0))
    assert here is None


def test_the_forecast_chart_marks_the_best_and_the_measured(rounds):
    prediction = predict(rounds, 0.01, 0.04, 0.002)
    data = study_charts.forecast_data(prediction)
    assert list(data[data["kind"] == "best"]["k"]) == [prediction.best]
    assert list(data[data["kind"] == "measured"]["k"]) == [0, 4]
    assert len(data[data["kind"] == "predicted"]) == 17


# The audit


def test_greedy_runs_of_different_drafts_compare_as_identical(tmp_path):
    plain = greedy_rounds(tmp_path, 0, NoDrafter())
    found = audit.compare(greedy_rounds(tmp_path, 4), plain)
    assert (found.num_compared, found.divergence, found.margin) == (40, None, None)


def test_the_first_difference_is_found_with_the_margin_of_the_target(tmp_path):
    plain = greedy_rounds(tmp_path, 0, NoDrafter())
    ours = list(plain)
    ours[7] = replace(ours[7], emitted=(ours[7].emitted[0] + 1,))
    found = audit.compare(ours, plain)
    tops = sorted((t.target_logprob for t in plain[7].final.top_tokens), reverse=True)
    assert found.divergence == 7
    assert found.margin == pytest.approx(tops[0] - tops[1])


def test_a_run_of_the_engine_lies_in_its_band(tmp_path):
    """A seeded run; over all seeds the chance of a false alarm is 5 % by construction."""
    _, events = tiny_events(tmp_path, seed=11, num_tokens=300, k=4)
    check = audit.check_acceptance([e for e in events if isinstance(e, RoundResult)])
    assert check.is_inside
    assert check.low < check.expected < check.high


def test_a_rule_that_takes_everything_is_caught(rounds):
    bent = [
        replace(
            r,
            candidates=tuple(replace(c, status=TokenStatus.ACCEPTED) for c in r.candidates),
        )
        for r in rounds
    ]
    assert not audit.check_acceptance(bent).is_inside


def test_without_tests_there_is_nothing_to_check(tmp_path):
    assert audit.check_acceptance(greedy_rounds(tmp_path, 0, NoDrafter())) is None


# The race


def test_both_runners_start_together_and_each_keeps_its_own_time(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=30)
    frames = [Frame(e, ("x",) * len(getattr(e, "emitted", ()))) for e in events]
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
