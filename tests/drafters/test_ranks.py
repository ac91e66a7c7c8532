"""Acceptance by rank is what the rule does; the best shape follows from it and from costs."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.acceptance import Draft, verify
from specdec.drafters.ranks import NUM_RANKS, PRIOR_NODES, RankAcceptance
from specdec.drafters.shapes import best_shape, write_shape
from specdec.drafters.tree import BEST, BestTreeRun, TreeDrafter, draw_siblings
from specdec.engine import RoundSettings, generate
from specdec.policies.adaptive import AdaptivePolicy
from specdec.policies.base import Budget
from specdec.policies.costs import Costs
from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from tests.toy import ToyModel


def law_of(seed: int, size: int = 8) -> Distribution:
    logits = np.random.default_rng(seed).normal(0, 1.5, size).astype(np.float64)
    return Distribution.from_logits(logits, Sampler(1.0))


@pytest.mark.parametrize("seed", range(3))
def test_the_chances_are_those_of_the_rule(seed):
    """Siblings are drawn and tested ten thousand times; each rank's count is within 4.5 σ."""
    target, draft = law_of(seed), law_of(seed + 100)
    rng = np.random.default_rng(seed)
    num_walks, first = 10_000, np.zeros(NUM_RANKS)
    for _ in range(num_walks):
        siblings = draw_siblings(draft, NUM_RANKS, rng)
        ids, laws = zip(*siblings, strict=True)
        tree = Draft(ids, (-1,) * NUM_RANKS, laws)
        verdict = verify(tree, [target.probs] * (NUM_RANKS + 1), rng)
        if verdict.path:
            first[verdict.path[0]] += 1
    measured = RankAcceptance(draw_siblings)
    summed = sum(measured._first_accepted(target, draft) for _ in range(num_walks))
    expected = summed / num_walks
    assert first / num_walks == pytest.approx(expected, abs=4.5 * 0.5 / np.sqrt(num_walks))
    assert expected.sum() <= 1.0 + 1e-9


def test_a_draft_that_is_the_target_needs_no_second_rank():
    ranks = RankAcceptance(draw_siblings)
    for _ in range(400):
        ranks.add(law_of(1), law_of(1))
    assert ranks.chances[0] == pytest.approx(1.0, abs=1e-3)
    assert max(ranks.chances[1:]) < 1e-3


def test_at_temperature_zero_the_rank_of_the_targets_token_counts():
    logits = np.array([3.0, 2.0, 1.0, 0.0, -1.0, -2.0])
    draft = Distribution.from_logits(logits, Sampler(0.0))
    for rank in range(NUM_RANKS):
        target = Distribution.from_logits(10.0 * np.eye(6)[rank], Sampler(0.0))
        found = RankAcceptance(draw_siblings)._first_accepted(target, draft)
        assert found.tolist() == np.eye(NUM_RANKS)[rank].tolist()


def test_the_prior_is_forgotten():
    ranks = RankAcceptance(draw_siblings)
    assert ranks.chances[0] == 0.6
    far = Distribution.from_logits(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0]), Sampler(1.0))
    near = Distribution.from_logits(np.array([50.0, 0.0, 0.0, 0.0, 0.0, -50.0]), Sampler(1.0))
    for _ in range(300):
        ranks.add(far, near)
    assert ranks.chances[0] < 0.01
    assert PRIOR_NODES > 0


def costs_of(fixed_s: float, row_s: float, level_s: float) -> Costs:
    """Return costs that were measured on a line, at several sizes."""
    costs = Costs()
    for rows in (1, 2, 4, 9, 17) * 4:
        candidates = tuple(_candidate(position) for position in range(rows - 1))
        costs.add(
            RoundResult(
                0,
                0,
                candidates,
                None,
                (),
                0,
                1.0,
                "",
                0.0,
                level_s * (rows - 1),
                fixed_s + row_s * rows,
                0.0,
                0.0,
                0.0,
                1.0,
            )
        )
    return costs


def _candidate(position: int):
    return TokenRecord(0, position - 1, position, TokenStatus.REJECTED)


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "level_s"), [(0.05, 0.0, 0.0), (0.05, 0.004, 0.01), (0.1, 0.001, 0.03)]
)
def test_the_best_shape_follows_from_what_was_measured(fixed_s, row_s, level_s):
    costs = costs_of(fixed_s, row_s, level_s)
    assert costs.call_s(5) == pytest.approx(fixed_s + 5 * row_s, rel=0.01)
    assert costs.level_s == pytest.approx(level_s)
    run = planning(ToyModel(0, noise=0.3))
    wanted = best_shape(run.ranks.chances, 24, 6, level_s, lambda n: fixed_s + n * row_s)
    planned = run._plan(_with(costs, 6))
    assert write_shape(planned) == write_shape(wanted or (-1,))


def planning(model: ToyModel) -> BestTreeRun:
    """Return a run that has tried what it tries first."""
    run = TreeDrafter(model, BEST).start([1, 2])
    run._num_rounds = 2
    return run


def _with(costs: Costs, depth: int) -> Budget:
    return Budget(depth, depth, costs=costs)


def test_before_anything_cost_something_it_is_the_chain():
    run = TreeDrafter(ToyModel(0), BEST).start([1, 2])
    assert write_shape(run._plan(Budget.chain(3))) == "1-1-1"
    run._num_rounds = 1
    assert write_shape(run._plan(_with(costs_of(1.0, 0.1, 0.1), 5))) == "1-1-1"
    assert run._plan(Budget.chain(0)) == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_run_learns_and_at_temperature_zero_equals_plain_decoding(temperature):
    target, drafter = ToyModel(3), TreeDrafter(ToyModel(3, noise=0.6), BEST)
    settings = RoundSettings(drafter, 5, Sampler(temperature), AdaptivePolicy())
    events = list(generate([1, 2], LocalTarget(target), settings, max_tokens=80, seed=4))
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert any(result.num_drafted for result in rounds)
    if temperature == 0.0:
        written = [1, 2]
        for _ in range(80):
            written.append(int(target.logits_after(written).argmax()))
        assert [i for result in rounds for i in result.emitted] == written[2:]


def test_a_slow_link_makes_trees_and_dear_rows_make_chains():
    """The same draft: where a call costs much and a row nothing, siblings pay; else they do not."""
    run = planning(ToyModel(0))
    for _ in range(40):
        run.ranks.add(law_of(1), law_of(101))
    wide = run._plan(_with(costs_of(1.0, 0.0001, 0.2), 4))
    narrow = run._plan(_with(costs_of(0.01, 0.01, 0.0001), 4))
    assert len(wide) > len(narrow)
    assert max(wide.count(parent) for parent in wide) > 1
