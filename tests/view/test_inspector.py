"""One round told step by step: every number of it its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.records import RoundResult, TokenRecord, TokenStatus, TopToken
from specdec.sampling import Sampler
from specdec.view import inspector
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


def text_of(token_id):
    return f"t{token_id}"


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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_table_chart_and_sentence_tell_one_probability(tmp_path, temperature):
    pair = tiny_pair(tmp_path)
    settings = RoundSettings(pair.drafter, 4, Sampler(temperature))
    events = generate([5, 6], pair.target, settings, max_tokens=40)
    num_told = 0
    for result in (event for event in events if isinstance(event, RoundResult)):
        told = list(inspector.steps(result, text_of))
        rows = inspector.candidate_rows(result, text_of)
        bars = {
            (spot.parent, bar.token): bar
            for spot in inspector.spots(result)
            for bar in inspector.bars(result, spot, text_of)
        }
        for row, record in zip(rows, result.candidates, strict=False):
            bar = bars[record.parent, row.token]
            assert (bar.draft_prob, bar.target_prob) == (row.draft_prob, row.target_prob)
            if record.uniform is None:
                continue
            [sentence] = [one for one in told if one.startswith(f"“{row.token}”")][:1]
            assert f"q = {row.draft_prob:.3f}" in sentence
            assert f"p = {row.target_prob:.3f}" in sentence
            assert 0 < row.draft_prob < 1
            num_told += 1
    assert num_told


def test_what_a_draft_costs_that_does_not_go_through_in_one_piece_is_said(tmp_path):
    drafted = next(one for one in greedy_rounds(tmp_path, 3, NgramDrafter()) if one.candidates)
    assert "sequences" not in " ".join(inspector.steps(drafted, text_of))
    told = " ".join(inspector.steps(replace(drafted, num_sequences=4), text_of))
    assert "as 4 sequences instead of one" in told


@pytest.mark.parametrize(
    ("link_s", "state_bytes", "said"),
    [
        (0.0, 0, None),
        (0.0504, 0, ", 50 ms of it on the network)"),
        (
            0.0541,
            41_472,
            ", 54 ms of it on the network, with 41 kB of hidden states for the draft)",
        ),
    ],
)
def test_the_network_share_of_a_call_is_named(tmp_path, link_s, state_bytes, said):
    (result, *_) = greedy_rounds(tmp_path, 0, NoDrafter())
    told = " ".join(
        inspector.steps(replace(result, link_s=link_s, state_bytes=state_bytes), text_of)
    )
    assert said in told if said else "network" not in told


def test_a_round_of_plain_decoding_has_a_story_too(tmp_path):
    result = greedy_rounds(tmp_path, 0, NoDrafter())[0]
    told = list(inspector.steps(result, text_of))
    assert told[0].startswith("Nothing was drafted")
    assert inspector.bars(result, inspector.spots(result)[0], text_of)


def test_the_residual_of_the_bars_is_what_target_wants_and_draft_under_rated(rounds):
    seen = 0
    for result in rounds:
        rejected = [c for c in result.candidates if c.status is TokenStatus.REJECTED]
        for spot in inspector.spots(result):
            bars = inspector.bars(result, spot, text_of)
            with_residual = [bar for bar in bars if bar.residual_prob is not None]
            [record] = [one for one in spot.records if one in rejected] or [None]
            if record is None:
                assert not with_residual
                continue
            seen += len(with_residual)
            mass = 1 - record.expected_acceptance
            for bar in with_residual:
                expected = max(0.0, bar.target_prob - (bar.draft_prob or 0.0)) / mass
                assert bar.residual_prob == pytest.approx(expected)
            assert sum(bar.residual_prob for bar in with_residual) <= 1 + 1e-6
            final = f"t{result.final.token_id}"
            assert final in [bar.token for bar in bars]
    assert seen


def test_the_residual_is_the_one_worked_out_by_hand(rounds):
    """Σ min(p, q) is 0.2 + 0.3 + 0.1, so 0.4 of p is left: half of it for “t2”, half for “t3”."""
    likeliest = tuple(
        TopToken(token_id, q, p, None, None)
        for token_id, q, p in ((1, 0.6, 0.2), (2, 0.3, 0.5), (3, 0.1, 0.3))
    )
    rejected = TokenRecord(
        1,
        -1,
        0,
        TokenStatus.REJECTED,
        draft_prob=0.6,
        target_prob=0.2,
        expected_acceptance=0.6,
        top_tokens=likeliest,
    )
    result = replace(rounds[0], candidates=(rejected,), final=None, temperature=1.0)
    residual = {
        bar.token: bar.residual_prob
        for bar in inspector.bars(result, inspector.spots(result)[0], text_of)
    }
    assert residual == pytest.approx({"t1": 0.0, "t2": 0.5, "t3": 0.5})


@pytest.mark.parametrize("change", ["two siblings", "a block", "an elder of an accepted one"])
def test_a_residual_that_is_not_max_p_minus_q_is_not_shown(rounds, change):
    def token(token_id, parent, status):
        return TokenRecord(
            token_id,
            parent,
            parent + 1,
            status,
            draft_prob=0.5,
            target_prob=0.25,
            acceptance_prob=0.5,
            uniform=0.75,
            expected_acceptance=0.75,
            top_tokens=(TopToken(1, 0.5, 0.25, None, None), TopToken(2, 0.25, 0.5, None, None)),
        )

    fell, passed = TokenStatus.REJECTED, TokenStatus.ACCEPTED
    candidates = {
        "two siblings": (
            token(1, -1, fell),
            replace(token(2, -1, fell), acceptance_prob=0.4),
        ),
        "a block": (token(1, -1, fell),),
        "an elder of an accepted one": (token(1, -1, fell), token(2, -1, passed)),
    }[change]
    end = TokenStatus.BONUS if change.startswith("an elder") else TokenStatus.RESAMPLED
    final = replace(token(3, -1, end), parent=1 if end is TokenStatus.BONUS else -1, position=9)
    result = replace(
        rounds[0],
        position=0,
        candidates=candidates,
        final=final,
        emitted=(3,),
        temperature=1.0,
        rule="block" if change == "a block" else "token",
    )
    assert {
        bar.residual_prob for bar in inspector.bars(result, inspector.spots(result)[0], text_of)
    } == {None}
    told = " ".join(inspector.steps(result, text_of))
    assert "max(0, p − q)" not in told
    siblings_left = "by what its elder siblings left of p it passes with probability 0.400"
    assert (siblings_left in told) is (change == "two siblings")
    said = {
        "two siblings": "after 2 candidates were rejected in turn",
        "a block": "the chain taken as a whole",
        "an elder of an accepted one": "A whole path passed",
    }
    assert said[change] in told


def test_siblings_do_not_mix(rounds):
    """A tree of two: below each first token another one; each place shows its own."""

    def token(token_id, parent, position, status):
        top = (TopToken(token_id, 0.5, 0.4, None, None),)
        return TokenRecord(token_id, parent, position, status, 0.5, 0.4, top_tokens=top)

    fell, passed, unseen = TokenStatus.REJECTED, TokenStatus.ACCEPTED, TokenStatus.DISCARDED
    candidates = (
        token(1, -1, 0, fell),
        token(2, -1, 0, passed),
        token(3, 0, 1, unseen),
        token(4, 1, 1, fell),
    )
    final = TokenRecord(5, 1, 1, TokenStatus.RESAMPLED, target_prob=0.3)
    result = replace(
        rounds[0], position=0, candidates=candidates, final=final, emitted=(2, 5), temperature=1.0
    )
    found = inspector.spots(result)
    assert [(spot.parent, [r.token_id for r in spot.records]) for spot in found] == [
        (-1, [1, 2]),
        (1, [4, 5]),
        (0, [3]),
    ]
    assert inspector.default_spot(result) == 1
    shown = [{bar.token for bar in inspector.bars(result, spot, text_of)} for spot in found]
    assert shown == [{"t1", "t2"}, {"t4", "t5"}, {"t3"}]
    labels = [inspector.spot_label(result, spot, text_of) for spot in found]
    assert labels == ["1: t1 | t2", "2 after t2: t4 | t5", "2 after t1: t3"]
    assert [row.after for row in inspector.candidate_rows(result, text_of)] == [
        *("", "", "t1", "t2", "t2")
    ]


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
        for spot in inspector.spots(result):
            inspector.bars(result, spot, run.token_text)
            assert inspector.spot_label(result, spot, run.token_text)


def test_a_log_probability_that_is_none_is_read_as_certainty(rounds):
    result = replace(rounds[0], temperature=0.0, candidates=(), final=rounds[0].final)
    strange = replace(
        result, final=replace(result.final, parent=-1, target_logprob=1e308, top_tokens=())
    )
    [bar] = inspector.bars(strange, inspector.spots(strange)[-1], text_of)
    assert bar.target_prob == 1.0
