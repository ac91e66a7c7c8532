"""The sampler's transforms and draws, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, strategies
from numpy.typing import NDArray

from specdec.errors import ModelError, SettingsError
from specdec.sampling import Distribution, Sampler, sample, top_ids
from tests.toy import ScriptedRandom

ALMOST_ONE = float(np.nextafter(1.0, 0.0))


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
