"""The acceptance rule, proven by exact enumeration, and the sampler's transforms."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, strategies
from numpy.typing import NDArray

from specdec.errors import ModelError, SettingsError
from specdec.records import Draft, TokenStatus
from specdec.sampling import Distribution, Sampler, residual, sample, top_ids, verify
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


@given(
    weights=strategies.lists(strategies.floats(0, 1e6), min_size=1, max_size=40),
    uniform=strategies.floats(0, 1, exclude_max=True),
)
def test_a_sample_always_has_positive_probability(weights: list[float], uniform: float) -> None:
    probs = np.array(weights)
    assume(probs.sum() > 0)
    assert probs[sample(probs, ScriptedRandom([uniform]))] > 0


@given(
    size=strategies.integers(1, 1500),
    share=strategies.sampled_from([0.002, 0.1, 1.0]),
    seed=strategies.integers(0, 2**32),
)
def test_a_sample_is_where_the_cumulative_mass_passes_the_uniform(
    size: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, size) * (rng.random(size) < share)  # exact sums, whole gaps
    assume(weights.sum() > 0)
    uniform = rng.random()
    passed = np.cumsum(weights) > uniform * weights.sum()
    assert sample(weights.astype(np.float32), ScriptedRandom([uniform])) == passed.argmax()


logit_vectors = strategies.lists(strategies.floats(-30, 30, width=32), min_size=2, max_size=30).map(
    lambda values: np.array(values, np.float32)
)


@given(
    logits=logit_vectors,
    temperature=strategies.floats(0.05, 2),
    top_k=strategies.integers(0, 40),
    top_p=strategies.floats(0.05, 1),
)
def test_the_sampler_agrees_with_its_definition(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> None:
    got = Distribution.from_logits(logits.astype(np.float64), Sampler(temperature, top_k, top_p))
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    assume(len(set(weights.tolist())) == weights.size)  # ties are tested below
    order = np.argsort(-weights)
    kept = order[: top_k or None]
    shares = weights[kept] / weights[kept].sum()
    before = np.cumsum(shares) - shares
    assume(np.abs(before - top_p).min() > 1e-9)  # a boundary decided by the last bit
    kept = kept[before < top_p]
    expected = np.zeros(logits.size)
    expected[kept] = weights[kept] / weights[kept].sum()
    assert got.probs == pytest.approx(expected, abs=1e-12)


@given(logits=logit_vectors)
def test_entropy_and_logprobs_are_those_of_the_model_itself(logits: NDArray[np.float32]) -> None:
    for temperature in (0.0, 0.7, 1.0):
        got = Distribution.from_logits(logits, Sampler(temperature))
        exact = np.exp(logits.astype(np.float64) - logits.max())
        exact /= exact.sum()
        assert got.entropy == pytest.approx(-(exact * np.log(exact)).sum(), abs=1e-4)
        assert got.logprob(0) == pytest.approx(np.log(exact[0]), abs=1e-4)


def test_greedy_puts_everything_on_the_first_of_the_largest() -> None:
    got = Distribution.from_logits(np.array([1, 3, 3, 2], np.float32), Sampler(0.0))
    assert got.probs.tolist() == [0, 1, 0, 0]


def test_tokens_a_reduced_head_cannot_say_get_nothing() -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 0.0], np.float32)
    for sampler in (Sampler(0.0), Sampler(1.0), Sampler(2.0, top_p=0.99), Sampler(0.01)):
        got = Distribution.from_logits(logits, sampler)
        assert got.probs[[0, 2]].tolist() == [0, 0]
        assert np.isfinite(got.entropy)
        assert got.top_ids(4) == [1, 3]


@given(values=logit_vectors, count=strategies.integers(1, 40))
def test_top_ids_are_sorted_with_ties_to_the_lower_id(
    values: NDArray[np.float32], count: int
) -> None:
    expected = sorted(range(values.size), key=lambda i: (-values[i], i))[:count]
    assert top_ids(values, count).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": 1e-5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
    ],
)
def test_a_sampler_out_of_range_says_which_value(changes: dict[str, float], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Sampler(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("logits", [[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [-np.inf] * 3])
def test_logits_that_are_no_numbers_are_refused(logits: list[float], temperature: float) -> None:
    with pytest.raises(ModelError, match="not numbers"):
        Distribution.from_logits(np.float32(logits), Sampler(temperature))
