"""AdaEDL: where it stops, how its threshold moves, and that the output keeps its law."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.drafters.model import ModelDrafter
from specdec.engine import RoundSettings, generate
from specdec.policies import entropy
from specdec.policies.base import Budget, Stop
from specdec.policies.entropy import EntropyPolicy, EntropyRun, entropy_limit
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from tests.policies.worlds import make_round
from tests.test_acceptance import VOCAB, Probs, assert_target_law, distribution, sequence_law
from tests.toy import ToyModel

SAMPLER = Sampler(1.0)
CONTEXT = [0, 1]


def law_with_entropy(nats: float) -> Distribution:
    return Distribution(np.array([1.0]), np.array([0.0]), 0.0, nats)


def run_at(threshold: float) -> EntropyRun:
    run = EntropyPolicy().start()
    run.threshold = threshold
    run._told = entropy_limit(threshold)
    return run


# -- where it stops ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "nats", "stops"),
    [
        (0.5, 1.249, False),  # 1 − √(0.2 · 1.25) = 0.5
        (0.5, 1.251, True),
        (0.4, 1.799, False),
        (0.4, 1.801, True),
        (0.0, 4.999, False),
        (0.0, 5.001, True),
        (1.0, 0.0, False),
        (1.0, 0.001, True),
    ],
)
def test_drafting_stops_where_the_bound_falls_below_the_threshold(
    threshold: float, nats: float, stops: bool
) -> None:
    assert run_at(threshold).budget([], 4).stops_at(law_with_entropy(nats)) is stops


def test_it_is_the_draft_s_own_entropy_whatever_the_sampler() -> None:
    stop = run_at(0.5).budget([], 4)
    even = np.zeros(6, np.float32)
    for sampler in (Sampler(0.0), Sampler(1.0, top_k=1)):
        law = Distribution.from_logits(even, sampler)
        assert law.probs.max() == 1.0
        assert law.entropy == pytest.approx(log(6))
        assert stop.stops_at(law)


def test_k_as_it_is_set_remains_the_longest_draft() -> None:
    budget = EntropyPolicy().start().budget([], 6)
    assert (budget.depth, budget.num_nodes) == (6, 6)


# -- how the threshold moves ---------------------------------------------------------------------


def follow(run: EntropyRun, rounds: list[RoundResult]) -> list[str]:
    """Let `run` see those rounds one after the other; return its reasons."""
    return [run.budget(rounds[: number + 1], 4).reason for number in range(len(rounds))]


def entropy_round(number: int, depth: int, accepted: int, k: int = 4) -> RoundResult:
    return make_round(number, k, depth, accepted, policy="entropy")


def test_the_threshold_follows_the_acceptance_by_a_thousandth_a_round() -> None:
    run = run_at(0.4)
    follow(run, [entropy_round(0, 4, 0)])  # r = 0.45: too low, so that it stops sooner
    assert run.threshold == pytest.approx(0.401)
    follow(run, [entropy_round(1, 4, 4)])  # r = 0.725
    assert run.threshold == pytest.approx(0.402)
    follow(run, [entropy_round(number, 2, 2) for number in range(2, 6)])  # 0.86, 0.93, 0.97, 0.98
    assert run.threshold == pytest.approx(0.400)


def test_a_threshold_that_lets_nothing_pass_comes_down_again() -> None:
    run = run_at(1.0)
    follow(run, [entropy_round(number, 0, 0) for number in range(300)])
    assert run.threshold == pytest.approx(0.7)


@pytest.mark.parametrize(("threshold", "accepted"), [(0.0, 4), (1.0, 0)])
def test_the_threshold_stays_between_0_and_1(threshold: float, accepted: int) -> None:
    run = run_at(threshold)
    follow(run, [entropy_round(number, 4, accepted) for number in range(5)])
    assert run.threshold == threshold


def test_rounds_that_could_draft_nothing_and_rounds_of_others_move_nothing() -> None:
    run = run_at(0.4)
    follow(run, [entropy_round(0, 0, 0, k=0), make_round(1, 4, 4, 0, policy="fixed")])
    assert run.threshold == 0.4


def test_the_reason_tells_each_tenth_of_a_nat() -> None:
    reasons = follow(run_at(0.4), [entropy_round(n, 4, 0) for n in range(40)])
    told = [reason for reason in reasons if reason]
    assert told == [
        "Drafting stops above 1.7 nats, no longer 1.8: 0.0 % were accepted lately.",
        "Drafting stops above 1.6 nats, no longer 1.7: 0.0 % were accepted lately.",
    ]


# -- the law -------------------------------------------------------------------------------------


class PreciseToy(ToyModel):
    """A toy of three tokens in float64, so that laws can be compared to the last digits."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, vocab_size=VOCAB)

    def logits_after(self, context):
        return self.table[context[-2], context[-1]]

    def law(self, path: tuple[int, ...]) -> Probs:
        return Distribution.from_logits(self.logits_after([*CONTEXT, *path]), SAMPLER).probs


class OneMoreWanted(Exception):
    pass


class Forced:
    """Random numbers that draw given tokens; asking for more raises `OneMoreWanted`."""

    def __init__(self, model: PreciseToy, token_ids: tuple[int, ...]) -> None:
        self._points = []
        for place, token_id in enumerate(token_ids):
            law = model.law(token_ids[:place])
            self._points.append(float(law[:token_id].sum() + law[token_id] / 2))

    def random(self) -> float:
        if not self._points:
            raise OneMoreWanted
        return self._points.pop(0)


def drafts(
    model: PreciseToy, budget: Budget, drawn: tuple[int, ...] = (), chance: float = 1.0
) -> Iterator[tuple[Draft, float]]:
    """Yield all that a model drafter may draft, with its exact probability."""
    run = ModelDrafter(model).start(CONTEXT)
    try:
        draft = run.propose(CONTEXT, budget, SAMPLER, Forced(model, drawn))
    except OneMoreWanted:
        for token_id, prob in enumerate(model.law(drawn)):
            yield from drafts(model, budget, (*drawn, token_id), chance * float(prob))
    else:
        assert draft.token_ids == drawn
        yield draft, chance


@pytest.mark.parametrize("seed", range(4))
def test_drafts_that_stop_for_entropy_keep_the_law_of_the_target(seed: int) -> None:
    target, draft_model = PreciseToy(seed), PreciseToy(seed + 50)
    budget = run_at(0.62).budget([], 2)
    law = sequence_law(drafts(draft_model, budget), target.law, 3)
    assert_target_law(law, target.law, 3)


def test_among_those_drafts_some_stopped_at_every_length() -> None:
    budget = run_at(0.62).budget([], 2)
    found = [draft for seed in range(4) for draft, _ in drafts(PreciseToy(seed + 50), budget)]
    assert {len(draft) for draft in found} == {0, 1, 2}


def test_a_token_dropped_after_it_was_drawn_would_bias_the_output() -> None:
    """The trap: the same draft and the same rule, but what is unlikely by its own q is left out."""
    target, draft = np.array([0.4, 0.4, 0.2]), np.array([0.6, 0.3, 0.1])

    def kept(drop_below: float) -> Iterator[tuple[Draft, float]]:
        for token_id, prob in enumerate(draft):
            one = Draft.chain([token_id], [distribution(draft)])
            yield (one if prob >= drop_below else Draft()), float(prob)

    def first_token(drafts: Iterator[tuple[Draft, float]]) -> list[float]:
        law = sequence_law(drafts, lambda path: target, 2)
        return [sum(law[first, then] for then in range(VOCAB)) for first in range(VOCAB)]

    assert first_token(kept(0.0)) == pytest.approx([0.4, 0.4, 0.2], abs=1e-12)
    # Token 0: 0.6 · 0.4/0.6 where it was drawn, and 0.4 · 0.4 where another one was dropped.
    assert first_token(kept(0.5))[0] == pytest.approx(0.4 + 0.4 * 0.4, abs=1e-12)


def test_in_a_run_nothing_is_drafted_above_the_limit_and_much_below_it(monkeypatch) -> None:
    monkeypatch.setattr(entropy, "START", 0.55)
    settings = RoundSettings(ModelDrafter(ToyModel(0, noise=0.5)), 4, SAMPLER, EntropyPolicy())
    events = generate([1, 2, 3], LocalTarget(ToyModel(0)), settings, max_tokens=80)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    drafted = [c.draft_entropy for r in rounds for c in r.candidates]
    limit = entropy.entropy_limit(0.55 - 0.001 * len(rounds))
    assert drafted
    assert max(drafted) <= limit
    assert {r.depth for r in rounds} >= {0, 1, 2}


def test_a_drafter_asks_before_each_draw_and_draws_nothing_after_a_refusal() -> None:
    asked: list[Distribution] = []

    def second_no(law: Distribution) -> bool:
        asked.append(law)
        return len(asked) == 2

    stop: Stop = second_no
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    run = ModelDrafter(ToyModel(0)).start(CONTEXT)
    draft = run.propose(CONTEXT, Budget.chain(4, stop), SAMPLER, rng)
    assert len(draft) == 1
    assert asked[0] is draft.distributions[0]
    twin.random()
    assert rng.random() == twin.random()  # one number was drawn
