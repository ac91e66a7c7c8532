"""A cached context always answers as a fresh one would, whatever was drafted before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies

from specdec.acceptance import Draft
from specdec.models.context import MAX_DECODE_ROWS, CachedContext
from tests.toy import VOCAB_SIZE, ToyModel

token_ids = strategies.integers(0, VOCAB_SIZE - 1)
contexts = strategies.lists(token_ids, min_size=1, max_size=12)


@strategies.composite
def drafts(draw: strategies.DrawFn) -> Draft:
    """Any tree of up to six chosen tokens; siblings may be equal."""
    ids = draw(strategies.lists(token_ids, max_size=6))
    parents = [draw(strategies.integers(-1, node - 1)) for node in range(len(ids))]
    return Draft(tuple(ids), tuple(parents), (None,) * len(ids))


def fresh(model: ToyModel, context: list[int], draft: Draft) -> np.ndarray:
    rows = [model.logits_after(context)]
    paths: list[list[int]] = []
    for token_id, parent in zip(draft.token_ids, draft.parents, strict=True):
        paths.append([*(context if parent < 0 else paths[parent]), token_id])
    return np.stack(rows + [model.logits_after(path) for path in paths])


@pytest.mark.parametrize("supports_trees", [True, False])
@given(steps=strategies.lists(strategies.tuples(contexts, drafts()), min_size=1, max_size=5))
def test_any_sequence_of_contexts_and_trees(
    steps: list[tuple[list[int], Draft]], supports_trees: bool
) -> None:
    model = ToyModel(1, supports_trees=supports_trees)
    cached = CachedContext(model)
    for context, draft in steps:
        got = cached.score(context, draft)
        assert np.array_equal(got, fresh(model, context, draft))


@given(
    prompt=contexts,
    rounds=strategies.lists(strategies.tuples(drafts(), strategies.randoms(), token_ids)),
)
def test_following_any_path_of_a_tree_feeds_only_what_is_new(
    prompt: list[int], rounds: list[tuple[Draft, object, int]]
) -> None:
    model = ToyModel(1)
    cached = CachedContext(model)
    cached.prefill(prompt)
    context = list(prompt)
    for draft, random, final in rounds:
        before = model.num_fed
        got = cached.score(context, draft)
        assert np.array_equal(got, fresh(model, context, draft))
        assert model.num_fed - before == 1 + len(draft)
        node, children = -1, draft.children()
        while children[node + 1] and random.random() < 0.7:  # type: ignore[attr-defined]
            node = random.choice(children[node + 1])  # type: ignore[attr-defined]
            context.append(draft.token_ids[node])
        taken = {draft.token_ids[child] for child in children[node + 1]}
        context.append(next(t for t in [final, *range(VOCAB_SIZE + 7)] if t not in taken) % 6)
        if context[-1] in taken:  # it happens to be the next drafted one: then it is cached too
            cached.score(context)


def test_a_long_gap_is_prefilled_instead_of_decoded() -> None:
    model = ToyModel(1)
    cached = CachedContext(model)
    context = [1, 2, 3] * 40
    assert np.array_equal(cached.score(context), fresh(model, context, Draft()))
    assert model.prefills == [len(context) - 1]
    assert len(context) > MAX_DECODE_ROWS
