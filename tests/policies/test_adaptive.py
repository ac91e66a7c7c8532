"""The adaptive policy in worlds whose best K is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from specdec.policies.adaptive import (
    PROBE_EVERY,
    PROBE_SHARE,
    Acceptance,
    AdaptivePolicy,
    Costs,
    Outlook,
)
from specdec.records import RoundResult
from tests.policies.worlds import World, make_round, play

NUM_ROUNDS = 300
LEARNT = 60
"""Rounds after which K must be good; they count from the change where there is one."""


def changing(before: float, after: float, at: int = 100):
    return lambda number, place: before if number < at else after


WORLDS = {
    "a good draft": World(0.8),
    "a poor draft": World(0.5, 30, 3, 3),
    "a draft not worth it": World(0.4, 20, 10, 8),
    "a dear draft": World(0.2, 20, 15, 20),
    "a draft dearer than the target": World(0.1, 20, 15, 30),
    "hardly worth it": World(0.6, 20, 10, 6),
    "nearly the target itself": World(0.97, 30, 0.3, 0.5),
    "a draft that is never accepted": World(0.0, 30, 1, 1),
    "microseconds": World(0.75, 0.2, 0.01, 0.02),
    "prompt lookup that finds something half of the time": World(0.6, 50, 3, 0.001, match=0.5),
    "prompt lookup that seldom helps": World(0.2, 50, 21, 0.001, match=0.4),
    "a link of 50 ms": World(0.7, 20, 2, 4, link_ms=50),
    "a link of 50 ms makes it worth it": World(0.4, 20, 10, 8, link_ms=50),
    "acceptance falls with the position": World(lambda number, place: 0.9 * 0.85**place),
    "acceptance rises with the position": World(lambda number, place: min(0.95, 0.5 + 0.1 * place)),
    "one slow round": World(0.7, slow={20: 10}),
    "a slow start": World(0.7, slow={0: 10}),
    "slow rounds now and then": World(0.7, slow=dict.fromkeys((3, 9, 30, 70, 71), 10)),
    "noisy times": World(0.7, noise=0.3),
    "acceptance rises in mid-run": World(changing(0.3, 0.85)),
    "acceptance falls in mid-run": World(changing(0.85, 0.3)),
    "the draft becomes useless in mid-run": World(changing(0.8, 0.2), 20, 8, 8),
}
ENDS = {"a draft not worth it": 0, "a draft dearer than the target": 0}
ENDS |= {"nearly the target itself": 16}


def depths_in(world: World, k: int = 3, seed: int = 0, cap: int = 16) -> list[int]:
    rounds = play(AdaptivePolicy(cap), world, NUM_ROUNDS, k, seed)
    return [result.num_draft_tokens for result in rounds]


# -- how good K is -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_after_60_rounds_it_is_within_5_percent_of_the_best_fixed_k(name: str) -> None:
    """On the mean of four runs; single ones may be misled by what they happen to see."""
    world = WORLDS[name]
    first = LEARNT + 100 * ("in mid-run" in name)
    best = world.best(range(first, NUM_ROUNDS))
    shares = [world.speed(depths_in(world, seed=s)[first:], first) / best for s in range(4)]
    assert np.mean(shares) >= 0.95
    assert min(shares) >= 0.9


@pytest.mark.parametrize("name", ENDS)
def test_the_worlds_have_ends_where_it_goes(name: str) -> None:
    depths = depths_in(WORLDS[name])[LEARNT:]
    assert max(set(depths), key=depths.count) == ENDS[name]
    best = WORLDS[name].best(range(1))
    assert WORLDS[name].speed([ENDS[name]]) == best


@pytest.mark.parametrize("name", WORLDS)
def test_over_300_rounds_it_is_never_much_slower_than_plain_decoding(name: str) -> None:
    world = WORLDS[name]
    plain = world.speed([0] * NUM_ROUNDS)
    for seed in range(3):
        assert world.speed(depths_in(world, seed=seed)) >= 0.97 * plain


# -- how it starts, and what it tries ------------------------------------------------------------


@pytest.mark.parametrize(("k", "start"), [(3, [3, 0, 1]), (16, [16, 0, 1]), (0, [0, 1])])
def test_it_starts_with_k_as_it_is_set_without_a_draft_and_with_one_token(
    k: int, start: list[int]
) -> None:
    assert depths_in(WORLDS["a good draft"], k)[: len(start)] == start


def longest_gap(depths: Sequence[int], above: int) -> int:
    """Return for how many rounds nothing deeper than `above` was drafted, once all is known."""
    tried = [number for number, depth in enumerate(depths) if number >= LEARNT and depth > above]
    return int(np.diff(tried).max())


def test_the_position_after_the_last_is_tried_every_16_rounds() -> None:
    first_only = World(lambda number, place: float(place == 0), 24, 6, 4, noise=0.0)
    depths = depths_in(first_only)
    assert set(depths[LEARNT:]) == {1, 2}
    assert PROBE_EVERY / 2 < longest_gap(depths, 1) <= PROBE_EVERY


def test_a_draft_is_tried_every_32_rounds_where_plain_decoding_is_best() -> None:
    depths = depths_in(World(0.0, 30, 2, 2, noise=0.0), k=0)
    assert set(depths[LEARNT:]) == {0, 1}
    assert PROBE_EVERY / 2 < longest_gap(depths, 0) <= 2 * PROBE_EVERY


def test_a_drafter_with_nothing_to_offer_is_not_probed_in_every_round() -> None:
    world, run, rng = World(0.5, match=0.0), AdaptivePolicy().start(), np.random.default_rng(0)
    rounds: list[RoundResult] = []
    probes = []
    for number in range(NUM_ROUNDS):
        budget = run.budget(rounds, 1)
        if "for one round: position" in budget.reason:
            probes.append(number)
        rounds.append(world.round(number, budget.depth, rng))
    assert len(probes) > 1
    assert min(np.diff(probes)) > 3


def test_dear_probes_are_rarer() -> None:
    world = World(0.0, 20, 10, 20, noise=0.0)  # a probe doubles the time of a round
    tried = np.flatnonzero(depths_in(world, k=0))
    assert 0.5 / PROBE_SHARE < np.diff(tried)[-1] <= 1.0 / PROBE_SHARE


def test_drafting_that_becomes_worth_it_is_noticed_from_plain_decoding() -> None:
    depths = depths_in(World(changing(0.0, 0.9), 30, 2, 2), k=0)
    assert max(depths[60:100]) <= 1
    assert np.mean(depths[-100:]) > 4


@pytest.mark.parametrize("cap", [0, 1, 5, 16])
def test_it_never_goes_above_its_cap(cap: int) -> None:
    assert max(depths_in(WORLDS["nearly the target itself"], k=16, cap=cap)) == cap


def test_another_drafter_is_judged_anew() -> None:
    useless, good = World(0.0, 20, 10, 300), World(0.95, 20, 10, 1)  # one target, two drafts
    rng, run, rounds = np.random.default_rng(0), AdaptivePolicy().start(), []
    for number in range(80):
        world, drafter = (useless, "useless") if number < 70 else (good, "good")
        k = run.budget(rounds, 3).depth
        rounds.append(replace(world.round(number, k, rng), drafter=drafter))
    assert max(r.num_draft_tokens for r in rounds[20:70]) <= 1
    assert rounds[-1].num_draft_tokens >= 3


class CountedRounds(Sequence[RoundResult]):
    """Rounds that count how often one is looked at."""

    def __init__(self) -> None:
        self.rounds: list[RoundResult] = []
        self.num_reads = 0

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, index):
        found = self.rounds[index]
        self.num_reads += len(found) if isinstance(index, slice) else 1
        return found


def test_each_round_is_read_once() -> None:
    rounds, run, rng = CountedRounds(), AdaptivePolicy().start(), np.random.default_rng(0)
    for number in range(100):
        k = run.budget(rounds, 3).depth
        assert rounds.num_reads == number
        rounds.rounds.append(WORLDS["a good draft"].round(number, k, rng))


# -- what it says --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a good draft", "hardly worth it", "acceptance falls in mid-run"])
def test_every_move_has_its_reason_and_what_stays_has_none(name: str) -> None:
    run, rng, rounds = AdaptivePolicy().start(), np.random.default_rng(0), []
    stays = num_moves = 0
    for number in range(NUM_ROUNDS):
        budget = run.budget(rounds, 3)
        if number == 0:
            stays = 3
        if budget.reason:
            assert budget.reason.startswith(f"K {stays} → {budget.depth}")
            assert budget.reason.endswith(".")
            assert budget.depth != stays
            num_moves += 1
        else:
            assert budget.depth == stays
        if "for one round" not in budget.reason:
            stays = budget.depth
        rounds.append(WORLDS[name].round(number, budget.depth, rng))
    assert num_moves > 10


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        # 1.5 tokens in 40 ms with K = 1: a token is worth 26.7 ms, and a position costs 10 ms.
        (0, "K 0 → 1: position 1 is accepted 50.0 % of the time, and saves 3 ms"),
        (2, "K 2 → 1: position 2 is accepted 20.0 % of the time, and costs 7 ms"),
        (3, "K 3 → 1: position 2 is accepted 20.0 % of the time, and costs 7 ms"),
    ],
)
def test_a_reason_weighs_what_a_position_saves_against_what_it_costs(
    before: int, reason: str
) -> None:
    outlook = Outlook.of([0.5, 0.2, 0.2], plain_s=0.030, position_s=0.010)
    assert outlook.best == 1
    opposite = "costs" if "saves" in reason else "saves"
    assert outlook.why(before, 1) == f"{reason} more than it {opposite}."


def test_small_times_are_told_in_microseconds() -> None:
    outlook = Outlook.of([0.5], plain_s=30e-6, position_s=10e-6)
    assert outlook.why(0, 1).endswith("saves 3 µs more than it costs.")


# -- what it learns ------------------------------------------------------------------------------


def test_the_costs_are_those_of_the_world_in_spite_of_slow_rounds() -> None:
    world = World(0.7, 30, 2, 3, link_ms=50, slow=dict.fromkeys((0, 7, 13), 10))
    costs, rng = Costs(), np.random.default_rng(0)
    for number in range(60):
        costs.add(world.round(number, number % 5, rng))
    plain_s, position_s = costs.per_round()
    assert plain_s == pytest.approx(0.082, rel=0.05)
    assert position_s == pytest.approx(0.005, rel=0.2)


def test_a_cost_that_lasts_is_followed() -> None:
    costs, rng = Costs(), np.random.default_rng(0)
    for number in range(300):
        world = World(0.7, 30, 2, 3) if number < 100 else World(0.7, 60, 4, 6)
        costs.add(world.round(number, number % 5, rng))
    plain_s, position_s = costs.per_round()
    assert plain_s == pytest.approx(0.064, rel=0.2)
    assert position_s == pytest.approx(0.010, rel=0.2)


def test_before_calls_of_two_lengths_were_seen_a_position_costs_a_ninth_of_the_rest() -> None:
    costs = Costs()
    costs.add(make_round(0, 0, 0, 0, call_s=0.050))
    assert costs.per_round() == pytest.approx((0.050, 0.005))


def test_a_position_is_taken_to_be_like_the_one_before_it_until_it_is_tested() -> None:
    acceptance = Acceptance()
    assert acceptance.rates() == pytest.approx([0.6] * 16)
    for number in range(200):
        acceptance.add(make_round(number, 2, 2, 1))  # position 1 always, position 2 never
    rates = acceptance.rates()
    assert rates[0] == pytest.approx(1.0, abs=0.01)
    assert rates[1] == pytest.approx(0.0, abs=0.12)
    assert rates[2:] == pytest.approx([rates[1]] * 14)


def test_a_position_that_the_target_could_not_score_was_not_tested() -> None:
    acceptance = Acceptance()
    acceptance.add(replace(make_round(0, 3, 3, 1), final=None))
    assert acceptance.tests[0] > Acceptance().tests[0]
    assert acceptance.tests[1:] == Acceptance().tests[1:]


def test_a_clock_that_stands_still_stops_nothing() -> None:
    world = World(0.5, call_ms=0.0, position_ms=0.0, draft_ms=0.0)
    assert set(depths_in(world)) <= set(range(17))
