"""Definitions of the numbers, checked against counts done by hand."""

from __future__ import annotations

import pytest

from specdec.metrics import (
    Baseline,
    Block,
    RollingWindow,
    Totals,
    conditional_acceptance,
    predicted_tokens_per_round,
)
from specdec.records import FinishReason, RoundResult, TokenRecord, TokenStatus


def chain_round(index: int, num_drafted: int, num_accepted: int, **times: float) -> RoundResult:
    """Make a round of a chain whose first `num_accepted` tokens were accepted."""
    statuses = [TokenStatus.ACCEPTED] * num_accepted
    if num_accepted < num_drafted:
        statuses.append(TokenStatus.REJECTED)
    statuses += [TokenStatus.DISCARDED] * (num_drafted - len(statuses))
    end = TokenStatus.BONUS if num_accepted == num_drafted else TokenStatus.RESAMPLED
    defaults = {
        "started_s": 0.0,
        "draft_s": 0.25,
        "verify_s": 0.5,
        "link_s": 0.25,
        "retry_s": 0.0,
        "sample_s": 0.125,
        "wall_s": 1.0,
    }
    return RoundResult(
        round=index,
        position=0,
        candidates=tuple(
            TokenRecord(7, parent=i - 1, position=i, status=s) for i, s in enumerate(statuses)
        ),
        final=TokenRecord(8, parent=num_accepted - 1, position=num_accepted, status=end),
        emitted=(7,) * num_accepted + (8,),
        num_draft_tokens=4,
        temperature=0.7,
        drafter="toy",
        **(defaults | times),
    )


def totals(*rounds: RoundResult):
    return Totals(rounds).summary(
        num_prompt_tokens=3, prefill_s=2.0, finish_reason=FinishReason.LENGTH
    )


def test_the_totals_follow_vllms_definitions() -> None:
    summary = totals(chain_round(0, 4, 4), chain_round(1, 4, 1), chain_round(2, 2, 0))
    assert summary.num_tokens == 8
    assert summary.num_draft_tokens == 10
    assert summary.num_accepted_draft_tokens == 5
    assert summary.draft_acceptance_rate == 0.5
    assert summary.mean_acceptance_length == pytest.approx(1 + 5 / 3)
    assert summary.acceptance_histogram == (1, 1, 0, 0, 1)
    assert summary.accepted_per_pos == (2, 1, 1, 1)
    assert summary.drafted_per_pos == (3, 3, 2, 2)
    assert summary.per_position_acceptance == pytest.approx((2 / 3, 1 / 3, 1 / 3, 1 / 3))
    assert conditional_acceptance(summary) == pytest.approx((2 / 3, 1 / 2, 1, 1))
    assert (summary.wall_s, summary.decode_s) == (5.0, 3.0)
    assert summary.tokens_per_s == pytest.approx(8 / 3)
    assert summary.tokens_per_target_call == pytest.approx(8 / 3)


def test_a_tree_counts_every_node_it_sent_and_depths_as_positions() -> None:
    accepted, rejected = TokenStatus.ACCEPTED, TokenStatus.REJECTED
    tree = chain_round(0, 0, 0)
    candidates = (
        TokenRecord(1, parent=-1, position=0, status=rejected),
        TokenRecord(2, parent=-1, position=0, status=accepted),
        TokenRecord(3, parent=1, position=1, status=accepted),
    )
    from dataclasses import replace

    summary = totals(replace(tree, candidates=candidates, emitted=(2, 3, 8)))
    assert summary.num_draft_tokens == 3
    assert summary.num_accepted_draft_tokens == 2
    assert summary.accepted_per_pos == (1, 1)


def test_rounds_without_a_draft_are_calls_but_no_steps() -> None:
    summary = totals(chain_round(0, 0, 0), chain_round(1, 2, 2))
    assert (summary.num_target_calls, summary.num_spec_steps) == (2, 1)
    assert summary.mean_acceptance_length == 3.0


def test_a_run_without_drafts_has_no_rates_rather_than_wrong_ones() -> None:
    summary = totals(chain_round(0, 0, 0))
    assert summary.draft_acceptance_rate is None
    assert summary.mean_acceptance_length is None
    assert summary.acceptance_histogram == ()
    empty = totals()
    assert (empty.tokens_per_s, empty.ttft_s, empty.tokens_per_target_call) == (None, None, None)


def test_the_window_forgets_old_rounds() -> None:
    window = RollingWindow(size=2)
    window.add(chain_round(0, 4, 0, verify_s=9.0))
    window.add(chain_round(1, 4, 4))
    stats = window.add(chain_round(2, 4, 2))
    assert stats.num_rounds == 2
    assert stats.draft_acceptance_rate == pytest.approx(6 / 8)
    assert stats.tokens_per_s == pytest.approx(8 / 2)
    assert (stats.draft_s, stats.verify_s) == (0.25, 0.5)


def test_the_two_speedups_have_different_baselines() -> None:
    baseline = Baseline.of_blocks(Block.of_rounds([chain_round(0, 0, 0), chain_round(1, 0, 0)]))
    assert baseline.tokens_per_s == 1.0
    assert baseline.tokens_per_s_without_link == pytest.approx(2 / 1.5)
    assert (baseline.num_tokens, baseline.link_call_s) == (2, pytest.approx(0.25))


@pytest.mark.parametrize(
    ("alpha", "k", "expected"), [(0.6, 4, 2.31), (0.8, 8, 4.33), (0.9, 2, 2.71)]
)
def test_the_closed_form_is_leviathans(alpha: float, k: int, expected: float) -> None:
    predicted = predicted_tokens_per_round([alpha] * k)
    assert predicted == pytest.approx((1 - alpha ** (k + 1)) / (1 - alpha))
    assert predicted == pytest.approx(expected, abs=0.005)


def test_totals_grow_round_by_round_to_what_all_rounds_give_at_once() -> None:
    drafted_and_accepted = [(4, 4), (0, 0), (2, 0), (6, 2)]
    rounds = [chain_round(i, *counts) for i, counts in enumerate(drafted_and_accepted)]
    growing = Totals()
    for count, result in enumerate(rounds, 1):
        growing.add(result)
        assert growing.summary() == Totals(rounds[:count]).summary()
        assert growing.mean_acceptance == Totals(rounds[:count]).mean_acceptance


def test_the_mean_acceptance_counts_positions_that_were_tested() -> None:
    """Accepted 4, 0 and 2; two rounds ended with a rejection: 6 of 8 tests passed."""
    rounds = [chain_round(0, 4, 4), chain_round(1, 2, 0), chain_round(2, 6, 2)]
    assert Totals(rounds).mean_acceptance == pytest.approx(6 / 8)
    assert Totals([chain_round(0, 0, 0)]).mean_acceptance is None
    assert Totals().mean_acceptance is None
