"""A drafted tree keeps the law of the target, by exact enumeration of all that can be drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.shapes import parse_shape, write_shape
from specdec.drafters.translated import make_model_drafter
from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES, Budget
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from tests import test_acceptance
from tests.drafters.test_shapes import shapes
from tests.test_acceptance import (
    VOCAB,
    Probs,
    assert_target_law,
    conditional,
    outcomes,
    sequence_law,
)
from tests.toy import VOCAB_SIZE, ScriptedRandom, ToyModel
from tests.toy_tokenizers import write_toy_tokenizer

PROMPT = [1, 2]
GREEDY, PLAIN = Sampler(0.0), Sampler(1.0)
DEEP = Budget(16, MAX_NODES)
Target = Callable[[tuple[int, ...]], Probs]


class ExactModel(ToyModel):
    """A toy model in float64, which never says a third of what it could; it notes what it reads."""

    def __init__(self, seed: int, vocab_size: int = VOCAB, zeros: bool = True) -> None:
        super().__init__(seed, vocab_size=vocab_size)
        rng = np.random.default_rng([seed, 1])
        if zeros:
            forbidden = rng.integers(vocab_size, size=self.table.shape[:2])
            forbidden[rng.random(forbidden.shape) < 0.5] = vocab_size  # none
            self.table[forbidden[..., None] == np.arange(vocab_size)] = -np.inf
        self.read: list[tuple[int, ...]] = []
        self.num_forwards = 0

    def logits_after(self, context) -> NDArray[np.float64]:
        self.read.append(tuple(context))
        before = context[-2] if len(context) > 1 else self.vocab_size
        row: NDArray[np.float64] = self.table[before, context[-1]]
        return row

    def forward(self, *args, **options):
        self.num_forwards += 1
        return super().forward(*args, **options)


def propose(drafter: Drafter, budget: Budget = DEEP, sampler: Sampler = PLAIN, rng=None) -> Draft:
    rng = rng or np.random.default_rng(0)
    return drafter.start(PROMPT).propose(PROMPT, budget, sampler, rng)


def every_draft(
    drafter: Drafter, budget: Budget, sampler: Sampler, uniforms: tuple[float, ...] = ()
) -> Iterator[tuple[Draft, float]]:
    """Yield every draft that `propose` can draw with its exact probability.

    One uniform after the other is put into the middle of what each token takes of the
    distribution that the draft says it is drawn from.
    """
    draft = propose(drafter, budget, sampler, ScriptedRandom(uniforms))
    drawn = [
        (token_id, law.probs)
        for token_id, law in zip(draft.token_ids, draft.distributions, strict=True)
        if law is not None
    ]
    for uniform, (token_id, probs) in zip(uniforms, drawn, strict=False):
        assert probs[:token_id].sum() < uniform < probs[: token_id + 1].sum()
    if len(drawn) == len(uniforms):
        yield draft, float(np.prod([probs[token_id] for token_id, probs in drawn]))
        return
    probs = drawn[len(uniforms)][1]
    edges = np.concatenate([[0.0], np.cumsum(probs)])
    for token_id in np.flatnonzero(probs):
        middle = float(edges[token_id : token_id + 2].mean())
        yield from every_draft(drafter, budget, sampler, (*uniforms, middle))


def kinds(draft: Draft) -> list[str]:
    """Return of each family of siblings which were drawn and which were chosen."""
    families = [family for family in draft.children() if family]
    return ["".join("dc"[draft.distributions[n] is None] for n in family) for family in families]


# -- the law --------------------------------------------------------------------------------------

DRAWN = ["1", "3", "2-2", "3-1", "1-3", "1-2-1", "2-1,0-3", "2-1-1"]
CHOSEN_TOO = [("3", 2), ("3-1", 2), ("2-2-1", 1), ("3-1,2,0-1", 2), ("2-3", 2), ("1-1-3", 2)]


def assert_keeps_the_law(drafter: Drafter, sampler: Sampler, depth: int, target: Target) -> None:
    budget = Budget(depth, MAX_NODES)
    drafts = list(every_draft(drafter, budget, sampler))
    assert sum(chance for _, chance in drafts) == pytest.approx(1.0, abs=1e-12)
    assert_target_law(sequence_law(iter(drafts), target, depth + 1), target, depth + 1)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", DRAWN)
def test_drawn_siblings_keep_the_law(shape: str, seed: int) -> None:
    drafter = TreeDrafter(ExactModel(seed, zeros=False), shape)
    assert_keeps_the_law(drafter, PLAIN, len(shape.split("-")), conditional(seed))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("shape", "top_k"), CHOSEN_TOO)
def test_drawn_and_chosen_siblings_together_keep_the_law(shape: str, top_k: int, seed: int) -> None:
    drafter, sampler = TreeDrafter(ExactModel(seed, zeros=False), shape), Sampler(1.0, top_k)
    assert any("dc" in kind for kind in kinds(propose(drafter, DEEP, sampler)))
    assert_keeps_the_law(drafter, sampler, len(shape.split("-")), conditional(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_draft_that_never_says_some_tokens_keeps_the_law(seed: int) -> None:
    """What it never says is not chosen either: there are fewer siblings."""
    assert_keeps_the_law(TreeDrafter(ExactModel(seed), "3-2"), PLAIN, 2, conditional(seed))


@pytest.mark.parametrize("seed", range(2))
def test_a_larger_vocabulary_keeps_the_law(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_acceptance, "VOCAB", 4)
    for shape, top_k in (("3", 0), ("2-1", 0), ("3-2", 2)):
        drafter = TreeDrafter(ExactModel(seed, vocab_size=4), shape)
        assert_keeps_the_law(drafter, Sampler(0.7, top_k), len(shape.split("-")), conditional(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", ["3-2-1", "2-2-2", "1-3-1", "3-3-3"])
def test_a_greedy_draft_keeps_the_law_of_whatever_the_target_is(shape: str, seed: int) -> None:
    drafter = TreeDrafter(ExactModel(seed), shape)
    assert_keeps_the_law(drafter, GREEDY, 3, conditional(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [Budget(1, 2), Budget(2, 5), Budget(3, 3), Budget(3, 12)])
def test_auto_keeps_the_law(budget: Budget, seed: int) -> None:
    target = conditional(seed)
    ((draft, chance),) = every_draft(TreeDrafter(ExactModel(seed), "auto"), budget, PLAIN)
    assert (chance, set(draft.distributions)) == (1.0, {None})
    length = budget.depth + 1
    assert_target_law(sequence_law(iter([(draft, 1.0)]), target, length), target, length)


@pytest.fixture
def tokenizers(tmp_path):
    """Return a draft's and a target's tokenizer, of five and four tokens: three in common."""
    draft = write_toy_tokenizer(tmp_path / "draft", ["a", "b", "ab", "bab", "aab"])
    return draft, write_toy_tokenizer(tmp_path / "target", ["b", "ba", "a", "ab"])


@pytest.mark.parametrize(("shape", "top_k"), [("2-2", 0), ("3", 2), ("2-1", 1), ("auto", 0)])
def test_a_draft_of_another_vocabulary_keeps_the_law(tokenizers, shape, top_k, monkeypatch):
    monkeypatch.setattr(test_acceptance, "VOCAB", 4)
    drafter = make_model_drafter(ExactModel(2, 5, zeros=False), *tokenizers, 4, shape)
    assert isinstance(drafter, TreeDrafter)
    depth = 1 if shape == "3" else 2
    drafted = {t for draft, _ in every_draft(drafter, DEEP, PLAIN) for t in draft.token_ids}
    assert drafted == {0, 2, 3}  # the target alone can say "ba"
    assert_keeps_the_law(drafter, Sampler(0.8, top_k), depth, conditional(3))


# -- plain decoding -------------------------------------------------------------------------------

SHAPES = ["1", "4", "3-2-1", "2-2-1-1", "8-1", "2-1,0-3", "auto"]


def greedy_tokens(drafter: Drafter, k: int, target: ToyModel) -> list[int]:
    settings_now = RoundSettings(drafter, k, GREEDY)
    events = generate([1, 2, 3, 1, 2], LocalTarget(target), settings_now, max_tokens=40)
    return [token for event in events if isinstance(event, RoundResult) for token in event.emitted]


@pytest.mark.parametrize("supports_trees", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_temperature_zero_equals_plain_decoding(shape: str, supports_trees: bool) -> None:
    target = ToyModel(0, supports_trees=supports_trees)
    plain = greedy_tokens(ModelDrafter(target), 0, target)
    for draft_takes_trees, k in itertools.product([True, False], [1, 3, 8]):
        draft = ToyModel(0, noise=0.7, supports_trees=draft_takes_trees)
        assert greedy_tokens(TreeDrafter(draft, shape), k, target) == plain


@pytest.mark.parametrize(("supports_trees", "paths"), [(True, 1), (False, 6)])
def test_a_round_says_into_how_many_paths_its_tree_was_taken_apart(supports_trees, paths) -> None:
    target = ToyModel(0, supports_trees=supports_trees)
    settings_now = RoundSettings(TreeDrafter(ToyModel(1), "3-2"), 2, GREEDY)
    events = generate([1, 2, 3, 1, 2], LocalTarget(target), settings_now, max_tokens=20)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert {one.num_sequences for one in rounds if one.num_drafted == 9} == {paths}
    assert {one.num_sequences for one in rounds if one.num_drafted < 2} <= {1}


def test_at_temperature_zero_a_tree_offers_the_likeliest_tokens_in_their_order() -> None:
    model = ToyModel(4)
    draft = propose(TreeDrafter(model, "3-2"), sampler=GREEDY)
    for node, family in enumerate(draft.children()[:4], start=-1):
        likeliest = np.argsort(-model.logits_after([*PROMPT, *draft.tokens_to(node)]))
        assert [draft.token_ids[one] for one in family] == likeliest[: len(family)].tolist()
    assert kinds(draft) == ["dcc", "dc", "dc", "dc"]


def test_a_draft_of_another_vocabulary_equals_plain_decoding_at_temperature_zero(tokenizers):
    target = ToyModel(7, vocab_size=4)
    draft = ToyModel(1, vocab_size=5)
    plain = greedy_tokens(ModelDrafter(target), 0, target)
    for shape in ("3-2-1", "auto"):
        assert greedy_tokens(make_model_drafter(draft, *tokenizers, 4, shape), 3, target) == plain


# -- what is drafted ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shape", ["1-1-1", "3-2-1", "2-1,0-3", "4"])
def test_nodes_with_children_are_fed_once_and_others_not_at_all(
    shape: str, temperature: float
) -> None:
    model = ExactModel(0, VOCAB_SIZE, zeros=False)
    draft = propose(TreeDrafter(model, shape), sampler=Sampler(temperature))
    inner = set(draft.parents)  # the context's last token among them
    assert model.num_fed == len(inner)
    expected = {(*PROMPT, *draft.tokens_to(node)) for node in inner}
    assert sorted(model.read) == sorted(expected)
    assert model.num_forwards == len(shape.split("-"))


def test_auto_feeds_no_node_twice_and_takes_one_forward_for_a_level() -> None:
    model = ExactModel(0, VOCAB_SIZE, zeros=False)
    draft = propose(TreeDrafter(model, "auto"), Budget(6, 12))
    assert len(set(model.read)) == len(model.read) == model.num_fed
    assert {(*PROMPT, *draft.tokens_to(node)) for node in set(draft.parents)} <= set(model.read)
    assert model.num_forwards <= 6


def test_what_was_accepted_of_the_last_tree_is_not_fed_again() -> None:
    model = ExactModel(0, VOCAB_SIZE, zeros=False)
    run = TreeDrafter(model, "3-2-1").start(PROMPT)
    draft = run.propose(PROMPT, DEEP, PLAIN, np.random.default_rng(0))
    inner = draft.parents[-1]
    before = model.num_fed
    context = [*PROMPT, *draft.tokens_to(inner), 5]
    again = run.propose(context, DEEP, PLAIN, np.random.default_rng(1))
    assert model.num_fed - before == len(set(again.parents))


def expected_accepted(drafter: Drafter, depth: int, target: Target) -> float:
    """Return the number of accepted tokens in one round, over all that can happen in it."""
    total = 0.0
    for draft, draft_chance in every_draft(drafter, Budget(depth, MAX_NODES), PLAIN):
        rows = [target(tuple(draft.tokens_to(node))) for node in range(-1, len(draft))]
        for emitted, chance in outcomes(draft, rows):
            total += draft_chance * chance * (len(emitted) - 1)
    return total


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", ["2", "3", "2-2", "1-2", "1-2-1", "2-1-1"])
def test_a_tree_is_accepted_further_than_a_chain_of_its_depth(shape: str, seed: int) -> None:
    model, target = ExactModel(seed, zeros=False), conditional(seed)
    depth = len(shape.split("-"))
    chain = expected_accepted(ModelDrafter(model), depth, target)
    tree = expected_accepted(TreeDrafter(model, shape), depth, target)
    assert tree > chain + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_written_as_a_tree_is_the_chain(seed: int) -> None:
    model = ToyModel(seed)
    tree, chain = (
        propose(drafter, Budget.chain(4), Sampler(0.8), np.random.default_rng(seed))
        for drafter in (TreeDrafter(model, "1-1-1-1"), ModelDrafter(model))
    )
    assert (tree.token_ids, tree.parents) == (chain.token_ids, chain.parents)
    for one, other in zip(tree.distributions, chain.distributions, strict=True):
        assert np.array_equal(one.probs, other.probs)


@settings(max_examples=40)
@given(
    shape=shapes(max_children=VOCAB_SIZE),
    depth=strategies.integers(0, 16),
    num_nodes=strategies.integers(0, 16),
    temperature=strategies.sampled_from([0.0, 0.01, 1.0]),
)
def test_a_shape_is_cut_at_the_depth_of_the_budget(
    shape: tuple[int, ...], depth: int, num_nodes: int, temperature: float
) -> None:
    drafter = TreeDrafter(ToyModel(1), write_shape(shape))
    draft = propose(drafter, Budget(depth, num_nodes), Sampler(temperature))
    depths = Draft(shape, shape, (None,) * len(shape)).depths
    assert draft.parents == tuple(p for p, d in zip(shape, depths, strict=True) if d < depth)
    for family in draft.children():
        assert len({draft.token_ids[node] for node in family}) == len(family)


@settings(max_examples=40)
@given(
    budget=strategies.builds(Budget, strategies.integers(0, 16), strategies.integers(0, 100)),
    seed=strategies.integers(0, 100),
)
def test_auto_never_outgrows_its_budget_and_has_no_orphans(budget: Budget, seed: int) -> None:
    model = ExactModel(seed, VOCAB_SIZE)
    draft = propose(TreeDrafter(model, "auto"), budget)
    assert len(draft) <= min(budget.num_nodes, MAX_NODES)
    assert max(draft.depths, default=-1) < budget.depth
    paths = {tuple(draft.tokens_to(node)) for node in range(len(draft))}
    assert len(paths) == len(draft)
    assert all(path[:-1] in paths | {()} for path in paths)
    if budget.depth > 1 and 0 < budget.num_nodes <= 8:
        assert len(draft) == budget.num_nodes


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_nodes", [1, 3, 5])
def test_auto_keeps_the_likeliest_paths_of_all(num_nodes: int, seed: int) -> None:
    model = ToyModel(seed, vocab_size=VOCAB)
    draft = propose(TreeDrafter(model, "auto"), Budget(3, num_nodes), GREEDY)

    def chance(path: tuple[int, ...]) -> float:
        context, product = list(PROMPT), 1.0
        for token_id in path:
            law = Distribution.from_logits(model.logits_after(context), PLAIN)
            product *= float(law.probs[token_id])
            context.append(token_id)
        return product

    every = [p for n in (1, 2, 3) for p in itertools.product(range(VOCAB), repeat=n)]
    likeliest = sorted(every, key=chance, reverse=True)[:num_nodes]
    assert {tuple(draft.tokens_to(node)) for node in range(len(draft))} == set(likeliest)


def test_auto_is_a_chain_where_the_draft_is_sure_and_wide_where_it_is_not() -> None:
    """It looks below four tokens of a level at most, and stops where nothing more would be kept."""
    sure, unsure = (ExactModel(0, VOCAB_SIZE, zeros=False) for _ in range(2))
    sure.table[..., 3] += 100.0  # so sure that rounding makes it certain
    assert propose(TreeDrafter(sure, "auto"), Budget(16, 6)).is_chain
    assert sure.num_forwards == 6
    unsure.table[:] = 0.0
    assert propose(TreeDrafter(unsure, "auto"), Budget(16, 6)).parents == (-1,) * 6
    assert (unsure.num_forwards, unsure.num_fed) == (2, 1 + 4)


@pytest.mark.parametrize("seed", range(3))
def test_of_chosen_siblings_one_is_accepted_as_often_as_the_target_says_any(seed: int) -> None:
    draft, row = propose(TreeDrafter(ExactModel(seed), "auto"), Budget(1, 2)), conditional(seed)(())
    rejected = sum(
        c
        for emitted, c in outcomes(draft, [row, None, None])
        if len(emitted) == 1 and emitted[0] not in draft.token_ids
    )
    assert 1.0 - rejected == pytest.approx(row[list(draft.token_ids)].sum(), abs=1e-12)


# -- bounds and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["2-1-1-1-1-1", "auto"])
def test_a_tree_stops_where_the_draft_models_context_ends(shape: str) -> None:
    model = ToyModel(3)
    model.context_length = len(PROMPT) + 2
    drafter = TreeDrafter(model, shape)
    assert max(propose(drafter).depths) == 1
    long = [1] * 9
    rng = np.random.default_rng(0)
    assert len(drafter.start(long).propose(long, DEEP, PLAIN, rng)) == 0
    assert model.prefills == [len(PROMPT) - 1]  # a prompt that does not fit is not fed


@pytest.mark.parametrize("shape", ["3-2", "auto"])
def test_nothing_is_drafted_that_the_target_does_not_know(tokenizers, shape):
    model = ToyModel(1, vocab_size=5)
    model.table[..., [0, 1, 2]] = -np.inf  # only what the draft alone can say is left
    assert len(propose(make_model_drafter(model, *tokenizers, 4, shape))) == 0


def test_time_outside_forward_passes_is_told() -> None:
    assert 0 < propose(TreeDrafter(ToyModel(3), "2-2")).sample_s < 1


def test_a_name_tells_the_model_and_the_shape() -> None:
    drafter = TreeDrafter(ToyModel(3), "3-2-1")
    assert (drafter.name, drafter.tree) == ("toy-3", "3-2-1")
    assert TreeDrafter(ToyModel(3), "auto", "mine").name == "mine"


def test_a_shape_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="such as 3-2-1; 'wide' is none of these"):
        TreeDrafter(ToyModel(3), "wide")


def test_a_shape_found_by_search_can_be_drafted() -> None:
    shape = (-1, -1, 0, 0, 2)
    drafter = TreeDrafter(ToyModel(3), write_shape(shape))
    assert propose(drafter).parents == shape == parse_shape("2-2,0-1,0")
