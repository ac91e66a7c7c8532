"""What the target looked at: under the tree mask the same, to the last bit, as along each path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import ModelError
from specdec.models.base import Inside
from specdec.models.portable import PortableModel
from specdec.records import RoundResult
from specdec.runs import attention
from specdec.runs.attention import attention_of
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.models.tiny import write_tiny_llama
from tests.toy import ToyModel

PROMPT = [5, 17, 3, 99, 42]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return PortableModel.load(write_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=3, seed=5))


def rounds_of(model, drafter, k, max_tokens=12):
    settings = RoundSettings(drafter, k, Sampler(0.8))
    events = generate(PROMPT, LocalTarget(model), settings, max_tokens=max_tokens, seed=3)
    return [event for event in events if isinstance(event, RoundResult)]


def alone(model, context, path):
    """Return the weights [layers][heads, slots] of the last token of a path fed as plain text."""
    cache, inside = model.new_cache(), Inside(attention=True)
    model.prefill(list(context), cache)
    model.forward(list(path), cache, inside=inside)
    return [of_layer[:, -1] for of_layer in inside.attention_weights]


DRAFTERS = {
    "a tree": (lambda model: TreeDrafter(model.without_middle_layers(), SHAPE), 3),
    "a chain": (lambda model: ModelDrafter(model.without_middle_layers()), 4),
    "nothing": (lambda model: NoDrafter(), 0),
}
SHAPE = "3-2-1"


@pytest.mark.parametrize("kind", DRAFTERS)
def test_weights_under_the_mask_are_those_of_each_path_alone_to_the_last_bit(model, kind):
    make, k = DRAFTERS[kind]
    rounds = rounds_of(model, make(model), k)
    seen = 0
    for number, result in enumerate(rounds):
        found = attention_of(model, PROMPT, rounds, number)
        emitted = [token_id for one in rounds[:number] for token_id in one.emitted]
        assert found.context == (*PROMPT, *emitted)
        for node in range(-1, result.num_drafted):
            seen += 1
            tokens = [found.context[-1], *found.tree.tokens_to(node)]
            mask = found.sees(node)
            expected = alone(model, found.context[:-1], tokens)
            for layer in range(found.num_layers):
                row = found.weights[layer, :, node + 1]
                assert np.array_equal(row[:, mask], expected[layer])
                assert not row[:, ~mask].any()
    assert seen == sum(1 + one.num_drafted for one in rounds)
    assert kind != "a tree" or any(one.num_drafted > one.depth for one in rounds)


def test_one_head_or_all_of_them_in_one_number(model):
    rounds = rounds_of(model, ModelDrafter(model.without_middle_layers()), 3)
    found = attention_of(model, PROMPT, rounds, 1)
    heads = np.array([found.of(1, 2, head) for head in range(found.num_heads)])
    assert np.array_equal(found.of(1, 2, "maximum"), heads.max(axis=0))
    assert np.array_equal(found.of(1, 2, "mean"), heads.mean(axis=0))
    assert found.of(1, 2, "mean").sum() == pytest.approx(1.0, abs=1e-5)
    assert found.of(-1, 0, 0)[len(found.context) :].sum() == 0.0


def first_with(rounds, **changes):
    return [replace(rounds[0], **changes), *rounds[1:]]


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_tokens_that_the_weights_do_not_have_are_refused(model, token_id):
    rounds = rounds_of(model, ModelDrafter(model.without_middle_layers()), 3)
    bad = replace(rounds[0].candidates[0], token_id=token_id)
    others = rounds[0].candidates[1:]
    with pytest.raises(ModelError, match="not a round of these weights"):
        attention_of(model, PROMPT, first_with(rounds, candidates=(bad, *others)), 0)
    with pytest.raises(ModelError, match="not a round of these weights"):
        attention_of(model, PROMPT, first_with(rounds, emitted=(token_id,)), 1)
    with pytest.raises(ModelError, match="not a round of these weights"):
        attention_of(model, [], rounds, 0)


def test_more_than_can_be_kept_or_read_is_refused(model, monkeypatch):
    rounds = rounds_of(model, ModelDrafter(model.without_middle_layers()), 3)
    with pytest.raises(ModelError, match="longer than the"):
        attention_of(model, PROMPT * model.context_length, rounds, 0)
    monkeypatch.setattr(attention, "MAX_CELLS", 4 * 7)
    with pytest.raises(ModelError, match="4 tokens that look at 8 each"):
        attention_of(model, PROMPT, rounds, 0)


def test_a_model_that_gives_no_weights_says_so():
    with pytest.raises(ModelError, match="A toy pays no attention"):
        attention_of(ToyModel(seed=1), [1, 2], [], 0)
