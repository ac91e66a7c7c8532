"""A cached context always answers as a fresh one would, whatever was drafted before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from specdec.acceptance import Draft
from specdec.errors import ModelError
from specdec.models.base import MAX_FORWARD_ROWS, Inside
from specdec.models.context import CachedContext
from tests.toy import VOCAB_SIZE, ToyModel

token_ids = strategies.integers(0, VOCAB_SIZE - 1)
contexts = strategies.lists(token_ids, min_size=1, max_size=12)


@strategies.composite
def drafts(draw: strategies.DrawFn, max_size: int = 6) -> Draft:
    """Any tree of chosen tokens; siblings may be equal."""
    ids = draw(strategies.lists(token_ids, max_size=max_size))
    parents = [draw(strategies.integers(-1, node - 1)) for node in range(len(ids))]
    return tree(ids, parents)


def tree(ids: Sequence[int], parents: Sequence[int]) -> Draft:
    return Draft(tuple(ids), tuple(parents), (None,) * len(ids))


def beginning(draft: Draft, num_nodes: int) -> Draft:
    return tree(draft.token_ids[:num_nodes], draft.parents[:num_nodes])


def fresh(model: ToyModel, context: list[int], draft: Draft) -> np.ndarray:
    nodes = range(-1, len(draft))
    return np.stack([model.logits_after([*context, *draft.tokens_to(node)]) for node in nodes])


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
    assert len(context) > MAX_FORWARD_ROWS


@pytest.mark.parametrize("supports_trees", [True, False])
@settings(max_examples=50)
@given(prompt=contexts, whole=drafts(max_size=80), cuts=strategies.data())
def test_a_tree_grown_bit_by_bit_is_fed_once(
    supports_trees: bool, prompt: list[int], whole: Draft, cuts: strategies.DataObject
) -> None:
    model = ToyModel(1, supports_trees=supports_trees)
    cached = CachedContext(model)
    cached.prefill(prompt)
    sizes = {*cuts.draw(strategies.lists(strategies.integers(0, len(whole)))), len(whole)}
    for size in sorted(sizes):
        draft = beginning(whole, size)
        assert np.array_equal(cached.score(prompt, draft), fresh(model, prompt, draft))
    if supports_trees or whole.is_chain:
        assert model.num_fed == 1 + len(whole)
    leaf = cuts.draw(strategies.sampled_from(whole.leaves))
    context = [*prompt, *whole.tokens_to(leaf), 5]
    before = model.num_fed
    assert np.array_equal(cached.score(context, whole), fresh(model, context, whole))
    if supports_trees:
        assert model.num_fed - before == 1 + len(whole)


@given(prompt=contexts, trees=strategies.lists(drafts(), min_size=1))
def test_of_another_tree_the_nodes_it_begins_with_are_kept(
    prompt: list[int], trees: list[Draft]
) -> None:
    model = ToyModel(1)
    cached = CachedContext(model)
    cached.prefill(prompt)
    last, expected = Draft(), 1
    for draft in trees:
        assert np.array_equal(cached.score(prompt, draft), fresh(model, prompt, draft))
        kept = max(n for n in range(len(draft) + 1) if alike(last, draft, n))
        expected += len(draft) - kept
        assert model.num_fed == expected
        last = draft


def alike(one: Draft, other: Draft, num_nodes: int) -> bool:
    first, second = (
        list(zip(d.token_ids, d.parents, strict=True))[:num_nodes] for d in (one, other)
    )
    return len(first) == num_nodes and first == second


def test_what_fails_half_way_leaves_the_context_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel(1)
    cached = CachedContext(model)
    chain = Draft.chain([1, 2, 3] * 30)
    forward = model.forward

    def fail_on_the_second_part(token_ids, cache, **options):
        if len(token_ids) < MAX_FORWARD_ROWS:
            raise ModelError("The toy broke.")
        return forward(token_ids, cache, **options)

    first = beginning(chain, 5)
    cached.score([1, 2], first)
    monkeypatch.setattr(model, "forward", fail_on_the_second_part)
    with pytest.raises(ModelError):
        cached.score([1, 2], chain)
    monkeypatch.undo()
    before = model.num_fed
    assert np.array_equal(cached.score([1, 2], chain), fresh(model, [1, 2], chain))
    assert model.num_fed - before == len(chain) - len(first)
    monkeypatch.setattr(model, "forward", fail_on_the_second_part)
    with pytest.raises(ModelError):
        cached.score([1, 2, 4], chain)
    monkeypatch.undo()
    assert np.array_equal(cached.score([1, 2, 4], chain), fresh(model, [1, 2, 4], chain))


def test_a_large_tree_is_fed_in_several_forwards() -> None:
    rng = np.random.default_rng(4)
    parents = [int(rng.integers(-1, node)) for node in range(200)]
    whole = tree(rng.integers(0, VOCAB_SIZE, 200).tolist(), parents)
    model = ToyModel(1)  # takes no more than `MAX_FORWARD_ROWS` at once
    cached = CachedContext(model)
    for draft in (beginning(whole, 64), beginning(whole, 130), whole):
        assert np.array_equal(cached.score([1, 2], draft), fresh(model, [1, 2], draft))
    assert model.num_fed == 1 + len(whole)
    assert model.prefills == [1]


LAYERS = (3, 0)


def states(path: Sequence[int]) -> list[list[int]]:
    """Return what a toy gives for hidden states after `path`."""
    return [[layer, len(path), *[-1, *path][-2:]] for layer in LAYERS]


@settings(max_examples=50)
@given(
    steps=strategies.lists(
        strategies.tuples(strategies.lists(token_ids, min_size=1, max_size=70), drafts(70)),
        min_size=1,
        max_size=4,
    ),
    cuts=strategies.data(),
)
def test_hidden_states_are_those_of_each_token_fed_and_of_every_node(
    steps: list[tuple[list[int], Draft]], cuts: strategies.DataObject
) -> None:
    cached = CachedContext(ToyModel(1))
    context: list[int] = []
    for grown, whole in steps:
        context += grown
        num_fed = cached.cache.length
        if cuts.draw(strategies.booleans()):
            inside = Inside(LAYERS)
            cached.prefill(context, inside)
            prefilled = context[inside.first : len(context) - 1]
            assert len(inside.hidden) == len(prefilled)
            for i in range(len(prefilled)):
                assert inside.hidden[i].tolist() == states(context[: inside.first + i + 1])
            assert inside.first <= num_fed
        for size in (cuts.draw(strategies.integers(0, len(whole))), len(whole)):
            draft, inside = beginning(whole, size), Inside(LAYERS)
            cached.score(context, draft, inside)
            assert inside.hidden.dtype == np.float32
            expected = [states(context[: p + 1]) for p in range(inside.first, len(context))]
            expected += [states([*context, *draft.tokens_to(n)]) for n in range(len(draft))]
            assert inside.hidden.tolist() == expected


def test_another_question_feeds_the_draft_again() -> None:
    model = ToyModel(1)
    cached = CachedContext(model)
    context, draft = [1, 2, 3], Draft.chain([4, 5])
    cached.score(context, draft)
    assert model.num_fed == 5
    inside = Inside((2,))
    cached.score(context, draft, inside)
    assert model.num_fed == 8
    assert (inside.first, inside.hidden.shape) == (2, (3, 1, 4))
    cached.score(context, draft, Inside((2,)))
    assert model.num_fed == 8
    cached.score(context, draft)
    assert model.num_fed == 11


def test_what_a_model_cannot_give_is_refused_and_nothing_is_lost() -> None:
    model = ToyModel(1, supports_trees=False)
    cached = CachedContext(model)
    with pytest.raises(ModelError, match="pays no attention"):
        cached.score([1, 2], Draft.chain([3]), Inside(attention=True))
    with pytest.raises(ModelError, match="for chains only"):
        cached.score([1, 2], tree([3, 4], [-1, -1]), Inside((0,)))
    draft = tree([3, 4], [-1, -1])
    assert np.array_equal(cached.score([1, 2], draft), fresh(model, [1, 2], draft))
