"""A tree ends where the policy says that the draft is unsure, and keeps the law of the target."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter
from specdec.drafters.branches import BranchesDrafter
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES, Budget
from specdec.policies.entropy import is_unsure
from specdec.sampling import Distribution, Sampler
from tests.drafters.test_tree import PLAIN, ExactModel, every_draft, propose
from tests.test_acceptance import assert_target_law, conditional, sequence_law

THRESHOLD = 0.62
"""Some contexts of the toy models are surer than this promises, and some are not."""


def stopping(depth: int) -> Budget:
    return Budget(depth, MAX_NODES, partial(is_unsure, THRESHOLD))


def inner_laws(model: ExactModel, draft: Draft) -> dict[int, Distribution]:
    """Return the model's own law after the context and after each node of `draft`."""
    rows = {
        node: model.logits_after([1, 2, *draft.tokens_to(node)]) for node in range(-1, len(draft))
    }
    return {node: Distribution.from_logits(row, Sampler(1.0)) for node, row in rows.items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", ["2-2", "1-2-1", "3-1", "2-1,0-3", "auto"])
def test_nothing_stands_below_what_is_unsure(shape: str, seed: int) -> None:
    model = ExactModel(seed, zeros=False)
    draft = propose(TreeDrafter(model, shape), stopping(3))
    laws = inner_laws(model, draft)
    unsure = {node for node, law in laws.items() if is_unsure(THRESHOLD, law)}
    assert unsure.isdisjoint(draft.parents)
    assert (len(draft) == 0) == (-1 in unsure)


def test_both_kinds_of_context_are_met() -> None:
    models = [ExactModel(seed, zeros=False) for seed in range(8)]
    sizes = {len(propose(TreeDrafter(model, "2-2"), stopping(2))) for model in models}
    assert 0 in sizes
    assert max(sizes) > 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["2", "2-2", "1-2-1", "2-1,0-3", "auto"])
def test_a_tree_that_stops_keeps_the_law(shape: str, seed: int) -> None:
    assert_keeps_the_law(TreeDrafter(ExactModel(seed, zeros=False), shape), seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("group", [EnsembleDrafter, BranchesDrafter])
def test_a_group_that_stops_keeps_the_law(group: type[Drafter], seed: int) -> None:
    one = ModelDrafter(ExactModel(seed, zeros=False), name="one")
    other = ModelDrafter(ExactModel(seed + 1, zeros=False), name="other")
    assert_keeps_the_law(group([one, other]), seed, depth=2)


def assert_keeps_the_law(drafter: Drafter, seed: int, depth: int = 3) -> None:
    target = conditional(seed)
    drafts = list(every_draft(drafter, stopping(depth), PLAIN))
    assert sum(chance for _, chance in drafts) == pytest.approx(1.0, abs=1e-12)
    assert_target_law(sequence_law(iter(drafts), target, depth + 1), target, depth + 1)


def test_an_ensemble_has_no_groups_in_it() -> None:
    one, other, third = (
        ModelDrafter(ExactModel(seed), name=name) for seed, name in enumerate(("a", "b", "c"))
    )
    for group in (EnsembleDrafter([one, other]), BranchesDrafter([one, other])):
        with pytest.raises(SettingsError, match="single drafters"):
            EnsembleDrafter([group, third])
    branches = BranchesDrafter([EnsembleDrafter([one, other]), third])
    draft = branches.start([1, 2]).propose([1, 2], Budget(2, 8), PLAIN, np.random.default_rng(0))
    assert set(draft.drafted_by) == {"a+b", "c"}
