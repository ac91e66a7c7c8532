"""The acceptance rule, proven by exact enumeration, and the tree it walks."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, strategies
from numpy.typing import NDArray

from specdec.acceptance import Draft, residual, verify
from specdec.records import TokenStatus
from specdec.sampling import Distribution, sample
from tests.toy import ScriptedRandom

Probs = NDArray[np.float64]
Law = dict[tuple[int, ...], float]
ALMOST_ONE = float(np.nextafter(1.0, 0.0))
VOCAB = 3


def random_probs(rng: np.random.Generator, zeros: bool = True) -> Probs:
    weights = rng.exponential(size=VOCAB)
    if zeros and rng.random() < 0.3:
        weights[rng.integers(VOCAB)] = 0.0
    return weights / weights.sum()


def conditional(seed: int) -> Callable[[tuple[int, ...]], Probs]:
    """Return a model: context → distribution, fixed by `seed`, with some zeros."""
    table: dict[tuple[int, ...], Probs] = {}

    def model(context: tuple[int, ...]) -> Probs:
        if context not in table:
            table[context] = random_probs(np.random.default_rng([seed, 7, *context]))
        return table[context]

    return model


def outcomes(
    draft: Draft, rows: Sequence[Probs | None], script: tuple[float, ...] = ()
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every possible output of `verify` with its exact probability.

    Each test is forced both ways through its uniform; the probability of a way is the acceptance
    probability that `verify` itself reports, and the law of the final token is `final_probs`.
    """
    verdict = verify(draft, rows, ScriptedRandom(script, rest=ALMOST_ONE))
    tested = [test for test in verdict.tests if test.acceptance_prob is not None]
    if script and (tested[len(script) - 1].status is TokenStatus.ACCEPTED) != (script[-1] == 0.0):
        return  # this way has probability zero
    if len(tested) > len(script):
        yield from outcomes(draft, rows, (*script, 0.0))
        yield from outcomes(draft, rows, (*script, ALMOST_ONE))
        return
    chance = 1.0
    for test in tested:
        accepted = test.status is TokenStatus.ACCEPTED
        chance *= test.acceptance_prob if accepted else 1.0 - test.acceptance_prob
    path = tuple(draft.token_ids[node] for node in verdict.path)
    if verdict.final_probs is None:
        yield path, chance
    else:
        law = verdict.final_probs / verdict.final_probs.sum()
        for token_id in range(VOCAB):
            yield (*path, token_id), chance * float(law[token_id])


def sequence_law(
    drafts: Iterator[tuple[Draft, float]], target: Callable[[tuple[int, ...]], Probs], length: int
) -> Law:
    """Return the law of `length` tokens: one round, then plain sampling from the target."""
    law: Law = defaultdict(float)
    for draft, draft_chance in drafts:
        paths: list[tuple[int, ...]] = []
        for token_id, parent in zip(draft.token_ids, draft.parents, strict=True):
            paths.append((*(paths[parent] if parent >= 0 else ()), token_id))
        rows = [target(()), *(target(path) for path in paths)]
        for emitted, chance in outcomes(draft, rows):
            for rest in itertools.product(range(VOCAB), repeat=length - len(emitted)):
                sequence = (*emitted, *rest)
                tail = 1.0
                for index in range(len(emitted), length):
                    tail *= float(target(sequence[:index])[sequence[index]])
                law[sequence] += draft_chance * chance * tail
    return law


def assert_target_law(law: Law, target: Callable[[tuple[int, ...]], Probs], length: int) -> None:
    for sequence in itertools.product(range(VOCAB), repeat=length):
        expected = np.prod([target(sequence[:i])[sequence[i]] for i in range(length)])
        assert law.get(sequence, 0.0) == pytest.approx(float(expected), abs=1e-12)


def distribution(probs: Probs) -> Distribution:
    return Distribution.from_probs(probs)


@pytest.mark.parametrize("seed", range(5))
def test_a_sampled_chain_keeps_the_law_of_the_target(seed: int) -> None:
    target, drafter = conditional(seed), conditional(seed + 100)

    def drafts() -> Iterator[tuple[Draft, float]]:
        for tokens in itertools.product(range(VOCAB), repeat=2):
            first, second = drafter(()), drafter(tokens[:1])
            chance = float(first[tokens[0]] * second[tokens[1]])
            if chance:
                yield Draft.chain(tokens, [distribution(first), distribution(second)]), chance

    assert_target_law(sequence_law(drafts(), target, 3), target, 3)


@pytest.mark.parametrize("seed", range(5))
def test_a_chosen_chain_keeps_the_law_of_the_target(seed: int) -> None:
    target = conditional(seed)
    tokens = np.random.default_rng(seed).integers(VOCAB, size=2).tolist()
    drafts = iter([(Draft.chain(tokens), 1.0)])
    assert_target_law(sequence_law(drafts, target, 3), target, 3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_replacement", [True, False])
def test_two_drafts_of_one_drafter_keep_the_law(seed: int, with_replacement: bool) -> None:
    target, probs = conditional(seed), conditional(seed + 100)(())

    def drafts() -> Iterator[tuple[Draft, float]]:
        for a, b in itertools.product(range(VOCAB), repeat=2):
            second = probs.copy()
            if not with_replacement:
                second[a] = 0.0
                if second.sum() == 0:
                    continue
                second /= second.sum()
            chance = float(probs[a] * second[b])
            if chance:
                drawn_from = (distribution(probs), distribution(second))
                yield Draft((a, b), (-1, -1), drawn_from), chance

    assert_target_law(sequence_law(drafts(), target, 2), target, 2)


@pytest.mark.parametrize("seed", range(5))
def test_two_different_drafters_keep_the_law(seed: int) -> None:
    target = conditional(seed)
    one, other = conditional(seed + 100)(()), conditional(seed + 200)(())

    def drafts() -> Iterator[tuple[Draft, float]]:
        for a, b in itertools.product(range(VOCAB), repeat=2):
            chance = float(one[a] * other[b])
            if chance:
                yield Draft((a, b), (-1, -1), (distribution(one), distribution(other))), chance

    assert_target_law(sequence_law(drafts(), target, 2), target, 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_keeps_the_law(seed: int) -> None:
    """Root with two sampled children, the first with a sampled and a chosen child."""
    target, drafter = conditional(seed), conditional(seed + 100)

    def drafts() -> Iterator[tuple[Draft, float]]:
        root = drafter(())
        for a, b, c in itertools.product(range(VOCAB), repeat=3):
            below = drafter((a,))
            chance = float(root[a] * root[b] * below[c])
            if chance:
                drawn_from = (distribution(root), distribution(root), distribution(below), None)
                yield Draft((a, b, c, 1), (-1, -1, 0, 0), drawn_from), chance

    assert_target_law(sequence_law(drafts(), target, 3), target, 3)


def test_a_row_the_target_could_not_score_ends_the_round_without_a_token_and_keeps_the_law() -> (
    None
):
    target, drafter = conditional(3), conditional(103)
    first, second = drafter(()), drafter((0,))
    draft = Draft.chain((0, 1), [distribution(first), distribution(second)])
    seen = list(outcomes(draft, [target(()), None, None]))
    assert (0,) in [emitted for emitted, _ in seen]
    assert sum(chance for _, chance in seen) == pytest.approx(1.0, abs=1e-12)
    accepted = sum(chance for emitted, chance in seen if emitted == (0,))
    assert accepted >= min(1.0, target(())[0] / first[0]) - 1e-12


@strategies.composite
def distributions(draw: strategies.DrawFn) -> Probs:
    """A probability vector over three tokens, zeros included."""
    weights = draw(strategies.lists(strategies.integers(0, 1000), min_size=VOCAB, max_size=VOCAB))
    assume(sum(weights) > 0)
    return np.array(weights, np.float64) / sum(weights)


@given(target_probs=distributions(), draft_probs=distributions())
def test_one_draft_token_is_accepted_with_the_overlap_and_emits_the_target(
    target_probs: Probs, draft_probs: Probs
) -> None:
    law = np.zeros(VOCAB)
    accepted = 0.0
    for token_id in np.flatnonzero(draft_probs):
        draft = Draft.chain([int(token_id)], [distribution(draft_probs)])
        for emitted, chance in outcomes(draft, [target_probs, None]):
            law[emitted[0]] += draft_probs[token_id] * chance
        acceptance = min(1.0, target_probs[token_id] / draft_probs[token_id])
        accepted += draft_probs[token_id] * acceptance
    assert np.abs(law - target_probs).max() <= 1e-12
    assert accepted == pytest.approx(np.minimum(target_probs, draft_probs).sum(), abs=1e-12)


@given(probs=distributions(), seed=strategies.integers(0, 2**32))
def test_equal_distributions_accept_everything(probs: Probs, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn_from = distribution(probs)
    tokens = [sample(probs, rng) for _ in range(4)]
    verdict = verify(Draft.chain(tokens, [drawn_from] * 4), [probs] * 5, rng)
    assert [t.status for t in verdict.tests] == [TokenStatus.ACCEPTED] * 4
    assert verdict.final_status is TokenStatus.BONUS


def test_tokens_below_a_rejected_one_are_discarded_and_the_residual_decides() -> None:
    target_probs, draft_probs = np.array([0.2, 0.8, 0.0]), np.array([0.9, 0.1, 0.0])
    draft = Draft.chain([0, 1], [distribution(draft_probs)] * 2)
    verdict = verify(draft, [target_probs] * 3, ScriptedRandom([0.5]))
    assert [t.status for t in verdict.tests] == [TokenStatus.REJECTED, TokenStatus.DISCARDED]
    assert verdict.tests[0].acceptance_prob == pytest.approx(0.2 / 0.9)
    assert (verdict.final_token, verdict.final_status) == (1, TokenStatus.RESAMPLED)
    assert verdict.final_probs == pytest.approx([0.0, 1.0, 0.0])


def test_an_empty_draft_draws_one_token_from_the_target() -> None:
    verdict = verify(Draft(), [np.array([0.0, 0.0, 1.0])], np.random.default_rng(0))
    assert (verdict.path, verdict.final_token) == ((), 2)
    assert verdict.final_status is TokenStatus.BONUS


def test_a_residual_eaten_by_rounding_falls_back_to_the_target() -> None:
    probs = np.array([0.5, 0.5, 0.0])
    assert residual(probs, 0, probs.copy()) is probs


@strategies.composite
def trees(draw: strategies.DrawFn) -> Draft:
    """Any tree of up to eight chosen tokens."""
    parents = [
        draw(strategies.integers(-1, node - 1)) for node in range(draw(strategies.integers(0, 8)))
    ]
    return Draft(tuple(range(10, 10 + len(parents))), tuple(parents), (None,) * len(parents))


@given(trees())
def test_the_paths_to_the_leaves_cover_every_node(draft: Draft) -> None:
    paths = [draft.path_to(leaf) for leaf in draft.leaves]
    assert {node for path in paths for node in path} == set(range(len(draft)))
    for node in range(len(draft)):
        path = draft.path_to(node)
        assert path[-1] == node
        assert [draft.parents[one] for one in path] == [-1, *path[:-1]]
        assert len(path) == draft.depths[node] + 1
        assert draft.tokens_to(node) == [10 + one for one in path]
        assert (node in draft.leaves) is (node not in draft.parents)


def test_an_empty_draft_has_one_leaf_the_context() -> None:
    assert Draft().leaves == (-1,)
    assert Draft().path_to(-1) == ()
