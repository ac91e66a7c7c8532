"""Whether speculation is worth it: a forecast from a run's own costs, checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from specdec.metrics import Baseline, Block, Totals, WideCall
from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.runs import worth
from tests.made_runs import runs, tiny_events, tiny_run


def engine_rounds(folder, *, k=4, num_tokens=120):
    _, events = tiny_events(folder, seed=1, num_tokens=num_tokens, k=k)
    return [event for event in events if isinstance(event, RoundResult)]


@pytest.fixture
def rounds(tmp_path):
    return engine_rounds(tmp_path)


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
    totals = Totals(here)
    baseline = Baseline(10, 10 * (call_s + link_s), 10 * link_s)
    return worth.forecast(here, totals.summary(), baseline)


def test_a_step_beyond_the_width_of_the_run_is_seen_where_widths_were_timed(tmp_path):
    """A run at K = 3 costs what single calls do, and says nothing of the fifth row."""
    here = timed(engine_rounds(tmp_path, k=3), 0.001, 0.04, 0.0)
    block = Block((0.04,) * 8, (0.0,) * 8)
    wide = tuple(WideCall(n, 0.04 * (1 + n // 4)) for n in (1, 3, 4, 7, 8, 12, 16))
    in_steps = Baseline.of_blocks(block, replace(block, wide=wide))
    summary = Totals(here).summary()
    blind, seeing = (
        worth.forecast(here, summary, one) for one in (Baseline.of_blocks(block), in_steps)
    )
    assert blind.best > 3
    assert seeing.best == 3
    for k in (0, 1, 2, 3):
        assert seeing.tokens_per_s[k] == pytest.approx(blind.tokens_per_s[k])
    assert seeing.costs.added_s(4) == pytest.approx(0.04)
    assert seeing.costs.added_s(3.5) == pytest.approx(0.02)  # of drafts that are cut short
    assert seeing.costs.added_s(32) == pytest.approx(2 * 0.16)  # of trees
    assert "a call of the target costs 40 ms" in worth.reason(seeing)


def test_rounds_without_a_draft_cost_a_single_call(tmp_path):
    costs = worth.Costs(0.0, 0.04, 0.0, 0.0, ((4, 0.04), (8, 0.08)))
    assert costs.round_s(2.0, share=0.5) == pytest.approx(0.06)
    assert costs.round_s(0.0, share=0.0) == pytest.approx(0.04)


def chains(k, accepted):
    """Return rounds that drafted `k` tokens each and accepted as many as `accepted` says."""
    made = []
    for number, count in enumerate(accepted):
        statuses = [TokenStatus.ACCEPTED] * count + [TokenStatus.REJECTED] * (k - count)
        end = TokenStatus.BONUS if count == k else TokenStatus.RESAMPLED
        made.append(
            RoundResult(
                round=number,
                position=0,
                candidates=tuple(
                    TokenRecord(7, place - 1, place, status)
                    for place, status in enumerate(statuses)
                ),
                final=TokenRecord(8, count - 1, count, end),
                emitted=(7,) * count + (8,),
                num_draft_tokens=k,
                temperature=1.0,
                drafter="made",
                **dict.fromkeys(
                    ("started_s", "draft_s", "verify_s", "link_s", "retry_s", "sample_s", "wall_s"),
                    0.0,
                ),
            )
        )
    return made


def trees(accepted):
    """Return rounds whose tree has two first tokens and one after each, so many of it accepted."""
    places, parents = (0, 0, 1, 1), (-1, -1, 0, 1)
    made = chains(2, accepted)
    for number, (one, count) in enumerate(zip(made, accepted, strict=True)):
        taken = ((), (1,), (1, 3))[count]
        statuses = [
            TokenStatus.ACCEPTED if node in taken else TokenStatus.REJECTED for node in range(4)
        ]
        nodes = zip(parents, places, statuses, strict=True)
        made[number] = replace(
            one,
            candidates=tuple(TokenRecord(7, *node) for node in nodes),
            final=replace(one.final, parent=taken[-1] if taken else -1),
        )
    return made


def test_a_tree_is_as_deep_as_its_paths_and_costs_all_its_nodes():
    """Ten trees of 2 + 2 nodes: the first level held 8 of 10 times, the second 5 of those 8.

    A round costs 90 ms and 15 ms a node: 90, 120, 150 ms, and 180 for a third level like the last.
    It yields 1, 1.8, 2.3 and, by the mean of all tests, 2.6611 tokens.
    """
    prediction = predict(trees([2] * 5 + [1] * 3 + [0] * 2), 0.01, 0.04, 0.005, 0.05)
    assert prediction.num_nodes[:4] == (0, 2, 4, 6)
    assert prediction.tokens_per_s[:4] == pytest.approx(
        (1 / 0.09, 1.8 / 0.12, 2.3 / 0.15, 2.6611 / 0.18), rel=1e-4
    )
    assert prediction.best == 2
    assert prediction.measured[1] == (2, pytest.approx(2.3 / 0.15))
    told = worth.reason(prediction)
    assert told.startswith("A tree 2 deep (4 nodes) is best here, 1.38 times plain decoding")
    assert "a first level of 2.0 nodes saves 72 ms" in told
    assert "costs 30 ms" in told


def test_the_nodes_of_a_chain_are_its_depth(rounds):
    prediction = predict(rounds, 0.01, 0.04, 0.002)
    assert prediction.num_nodes == tuple(range(17))
    assert not prediction.is_of_trees


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


def test_the_forecast_is_the_one_worked_out_by_hand():
    """Ten rounds of K = 2: the first token passed 8 of 10 tests, the second 5 of 8.

    A round of K tokens costs 90 + 15 K ms. It yields 1, 1.8 and 2.3 tokens for K = 0, 1 and 2;
    from there on each further token passes like the mean of all tests, 13 of 18.
    """
    prediction = predict(chains(2, [2] * 5 + [1] * 3 + [0] * 2), 0.01, 0.04, 0.005, 0.05)
    assert prediction.acceptance[:4] == pytest.approx((0.8, 0.625, 13 / 18, 13 / 18))
    assert prediction.tokens_per_s[:5] == pytest.approx(
        (11.1111, 17.1429, 19.1667, 19.7119, 19.4794), abs=1e-4
    )
    assert prediction.best == 3
    assert prediction.measured == (
        (0, pytest.approx(11.1111, abs=1e-4)),
        (2, pytest.approx(19.1667, abs=1e-4)),
    )


def test_a_place_that_was_hardly_ever_tested_counts_like_the_mean_of_all():
    """The second token passed all of its 4 tests, the mean of all tests is 8 of 9."""
    prediction = predict(chains(2, [2] * 4 + [0]), 0.01, 0.04, 0.005)
    assert prediction.acceptance[:3] == pytest.approx((0.8, 8 / 9, 8 / 9))


def test_a_run_at_one_k_foretells_the_speed_at_others(tmp_path):
    costs = (0.01, 0.04, 0.002, 0.02)
    prediction = predict(engine_rounds(tmp_path, num_tokens=1500), *costs)
    for k in (1, 8):
        there = timed(engine_rounds(tmp_path, k=k, num_tokens=1500)[:-1], *costs)
        speed = sum(len(r.emitted) for r in there) / sum(r.wall_s for r in there)
        assert prediction.tokens_per_s[k] == pytest.approx(speed, rel=0.05)


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
    plain = tiny_run(tmp_path, k=0)
    assert worth.forecast(plain.rounds, plain.summary, Baseline(1, 1.0, 0.0)) is None


def test_rounds_that_took_no_time_predict_nothing(rounds):
    still = timed(rounds, 0.0, 0.0, 0.0)
    assert worth.forecast(still, Totals(still).summary(), Baseline(10, 1.0, 1.0)) is None


@settings(max_examples=60)
@given(runs())
def test_no_run_that_a_file_can_hold_is_too_strange_to_be_forecast(run):
    baseline = run.baseline or Baseline(10, 1.0, 0.0)
    prediction = worth.forecast(run.rounds, run.summary, baseline)
    assert prediction is None or worth.reason(prediction)


def test_rounds_without_a_draft_dilute_the_forecast():
    """Prompt lookup found something in half of the rounds: 1 token in those without, 1.8 with."""
    with_draft = chains(1, [1] * 8 + [0] * 2)
    without = [replace(one, candidates=(), emitted=(8,)) for one in chains(0, [0] * 10)]
    prediction = predict([*with_draft, *without], 0.0, 0.04, 0.01)
    assert prediction.tokens_per_s[1] == pytest.approx(1.4 / 0.045)


def test_a_far_target_makes_drafts_worth_it_from_a_round_trip_on():
    found = worth.outlook(
        Totals(timed(chains(2, [1] * 10), 0.03, 0.04, 0.01)).summary(),
        (10, 10),
        Baseline(10, 0.4, 0.0),
    )
    break_even_s = found.break_even_link_s(2)
    assert found.tokens_per_s(2, break_even_s) == pytest.approx(found.tokens_per_s(0, break_even_s))
    assert found.tokens_per_s(2, 0.0) < found.tokens_per_s(0, 0.0)
    assert found.tokens_per_s(2, 1.0) > found.tokens_per_s(0, 1.0)
