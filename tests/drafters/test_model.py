"""A model drafter draws each token from the distribution it hands over."""

from __future__ import annotations

import numpy as np

from specdec.drafters.model import ModelDrafter
from specdec.policies.base import Budget
from specdec.sampling import Distribution, Sampler, sample
from tests.toy import ToyModel


def test_each_token_is_the_draw_from_its_own_distribution() -> None:
    model, sampler = ToyModel(3), Sampler(0.9, top_k=4)
    context = [1, 2]
    run = ModelDrafter(model).start(context)
    draft = run.propose(context, Budget.chain(5), sampler, np.random.default_rng(7))
    again = np.random.default_rng(7)
    for token_id, drawn_from in zip(draft.token_ids, draft.distributions, strict=True):
        expected = Distribution.from_logits(model.logits_after(context), sampler)
        assert drawn_from is not None
        assert np.array_equal(drawn_from.probs, expected.probs)
        assert token_id == sample(expected.probs, again)
        context.append(token_id)


def test_a_draft_stops_where_the_draft_models_context_ends() -> None:
    model = ToyModel(3)
    model.context_length = 6
    drafter = ModelDrafter(model)
    rng = np.random.default_rng(0)
    assert len(drafter.start([1, 2, 3]).propose([1, 2, 3], Budget.chain(8), Sampler(), rng)) == 3
    assert len(drafter.start([1] * 9).propose([1] * 9, Budget.chain(8), Sampler(), rng)) == 0
    assert model.prefills == [2]  # a prompt that does not fit is not fed


def test_time_outside_forward_passes_is_told() -> None:
    context = [1, 2]
    run = ModelDrafter(ToyModel(3)).start(context)
    assert run.propose(context, Budget.chain(4), Sampler(), np.random.default_rng(0)).sample_s > 0
