"""The instrument that looks at the law: it finds what is off, and nothing where nothing is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies

pytest.importorskip("scipy")

from benchmarks.law.exact import LENGTH, Fit, Law, exact_law, fit, together, visible_distance
from benchmarks.law.remembering import Remembering
from specdec.acceptance import Draft
from specdec.models.context import CachedContext
from tests.toy import VOCAB_SIZE, ToyModel

MODEL = ToyModel(3)


def next_probs(prefix):
    row = MODEL.logits_after([1, *prefix]).astype(np.float64)
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def chance(sequence):
    return np.prod([next_probs(sequence[:i])[sequence[i]] for i in range(LENGTH)])


SEQUENCES = list(itertools.product(range(VOCAB_SIZE), repeat=LENGTH))
CHANCES = np.array([chance(sequence) for sequence in SEQUENCES])


def draw(chances, count, seed):
    rng = np.random.default_rng(seed)
    return [SEQUENCES[i] for i in rng.choice(len(SEQUENCES), count, p=chances / chances.sum())]


@pytest.mark.parametrize("min_chance", [1e-9, 0.002, 0.01, 0.05, 0.3, 0.9])
def test_the_cells_share_the_whole_law_out(min_chance):
    law = exact_law(next_probs, min_chance)
    summed: dict = {}
    for sequence, its_chance in zip(SEQUENCES, CHANCES, strict=True):
        cell = law.cell(sequence)
        summed[cell] = summed.get(cell, 0.0) + its_chance
    assert sum(law.chances.values()) == pytest.approx(1.0)
    for cell, expected in law.chances.items():
        assert summed.get(cell, 0.0) == pytest.approx(expected, abs=1e-12)
        assert expected >= min_chance or len(law.chances) == 1 or expected == 0.0


def test_samples_of_the_law_fit_it_and_tails_are_uniform():
    law = exact_law(next_probs, 5 / 1500)
    tails = np.array([fit(law, draw(CHANCES, 1500, seed)).p for seed in range(200)])
    assert 0.4 < tails.mean() < 0.6
    assert (tails < 0.05).mean() < 0.12


def test_what_the_law_rules_out_is_found_at_once():
    law = Law({(1, 1, 1): 1.0, None: 0.0}, frozenset({(), (1,), (1, 1)}))
    assert fit(law, [(1, 1, 1)] * 50 + [(1, 1, 2)]).p == 0.0
    assert fit(law, [(1, 1, 1)] * 50).p == 1.0


def test_a_distance_that_is_said_to_be_visible_is_seen():
    num_samples = 3000
    law = exact_law(next_probs, 5 / num_samples)
    freedom = sum(c > 0 for c in law.chances.values()) - 1
    distance = visible_distance([Fit(0.0, freedom, 1.0)], num_samples)
    tilt = np.where(np.random.default_rng(1).random(len(SEQUENCES)) < 0.5, 1.0, -1.0)
    tilt -= (tilt * CHANCES).sum()  # moves no mass in all
    moved = CHANCES * (1 + tilt * 2 * distance / np.abs(tilt * CHANCES).sum())
    assert np.abs(moved - CHANCES).sum() / 2 == pytest.approx(distance)
    seen = [fit(law, draw(moved, num_samples, seed)).p < 0.001 for seed in range(60)]
    assert np.mean(seen) > 0.7  # cells are pooled, which hides a part of the tilt


def test_tails_are_put_together_by_fisher():
    assert together([Fit(1.0, 3, 0.5)] * 4) == pytest.approx(0.6977, abs=0.01)
    assert together([Fit(1.0, 3, 0.01)] * 4) < 0.001
    assert together([Fit(0.0, 0, 1.0)]) == 1.0


token_ids = strategies.integers(0, VOCAB_SIZE - 1)
contexts = strategies.lists(token_ids, min_size=1, max_size=8)


@strategies.composite
def drafts(draw_from):
    ids = draw_from(strategies.lists(token_ids, max_size=5))
    parents = [draw_from(strategies.integers(-1, node - 1)) for node in range(len(ids))]
    return Draft(tuple(ids), tuple(parents), (None,) * len(ids))


@given(steps=strategies.lists(strategies.tuples(contexts, drafts()), min_size=1, max_size=6))
def test_remembered_rows_are_those_of_the_model(steps):
    remembering = Remembering(ToyModel(1))
    one, other = CachedContext(remembering), CachedContext(ToyModel(1))
    for context, draft in steps:
        assert np.array_equal(one.score(context, draft), other.score(context, draft))
