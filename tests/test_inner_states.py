"""A drafter that asks for the target's hidden states gets those of every token it has read."""

from __future__ import annotations

import numpy as np
import pytest

from specdec import pair
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.models.base import AFTER_NORM, Inside
from specdec.models.portable import PortableModel
from specdec.pair import LoadedModel, make_drafter
from specdec.policies.base import Budget
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Wanted
from specdec.targets.link import STATE_BYTES_PER_S, EmulatedLink
from specdec.targets.local import LocalTarget
from tests.models.tiny import write_tiny_llama
from tests.test_engine import Diary, TreeDrafter
from tests.toy import ToyModel

LAYERS = (1, 0, AFTER_NORM)
WANTED = Wanted(LAYERS)
PROMPT = [5, 17, 3, 99, 42]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return PortableModel.load(write_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=3, seed=5))


class RealTree(TreeDrafter):
    """The tree drafter over a real model."""

    def __init__(self, model):
        self.model = self
        self._real = model

    def logits_after(self, context):
        return self._real.forward(context, self._real.new_cache())[-1]


def hidden_of(model, context):
    """Return the states of all tokens but the last, computed in one fresh forward."""
    inside = Inside(LAYERS)
    if len(context) > 1:
        model.forward(context[:-1], model.new_cache(), inside=inside)
    return inside.hidden


def follow(model, turns, **options):
    return [t for one in follow_rounds(model, turns, **options) for t in one.emitted]


def follow_rounds(model, turns, *, prompt=PROMPT, target=None, max_tokens=24, temperature=0.8):
    left = list(turns)
    events = generate(
        prompt,
        target or LocalTarget(model),
        lambda: RoundSettings(left.pop(0) if len(left) > 1 else left[0], 3, Sampler(temperature)),
        max_tokens=max_tokens,
        seed=4,
    )
    return [event for event in events if isinstance(event, RoundResult)]


def check(model, diary):
    assert diary.asked
    for context, _, hidden in diary.asked:
        assert np.array_equal(hidden, hidden_of(model, context))


@pytest.mark.parametrize("prompt", [PROMPT, [7]], ids=["a prompt", "a prompt of one token"])
@pytest.mark.parametrize("inner", ["chain", "tree", "nothing", "lookup"])
def test_every_token_but_the_last_has_its_states_to_the_last_bit(model, inner, prompt):
    drafter = {
        "chain": lambda: ModelDrafter(model.without_middle_layers()),
        "tree": lambda: RealTree(model.without_middle_layers()),
        "nothing": NoDrafter,
        "lookup": NgramDrafter,
    }[inner]()
    diary = Diary(drafter, wants=WANTED)
    asked = follow(model, [diary], prompt=prompt)
    check(model, diary)
    assert asked == follow(model, [drafter], prompt=prompt)  # and no token is another for it


def test_states_are_whole_when_a_drafter_joins_late_or_comes_back(model):
    chain = ModelDrafter(model.without_middle_layers())
    first, second, late = (Diary(chain, name, WANTED) for name in ("a", "b", "late"))
    plain = NoDrafter()
    written = follow(model, [plain, plain, late, plain, first, second, plain, late])
    for diary in (first, second, late):
        check(model, diary)
    assert len(late.asked) > 2
    assert late.starts == [PROMPT]
    assert len(written) == 24


def test_a_drafter_that_asks_for_other_layers_has_the_context_read_again(model):
    chain = ModelDrafter(model.without_middle_layers())
    one, other = Diary(chain, "one", WANTED), Diary(chain, "other", Wanted((2,)))
    follow(model, [one, one, other])
    check(model, one)
    context, _, hidden = other.asked[-1]
    inside = Inside((2,))
    model.forward(context[:-1], model.new_cache(), inside=inside)
    assert np.array_equal(hidden, inside.hidden)


def test_who_does_not_ask_gets_none(model):
    diary = Diary(NgramDrafter())
    follow(model, [Diary(NgramDrafter(), "asks", WANTED), diary])
    assert {hidden is None for _, _, hidden in diary.asked} == {True}


def test_states_cross_the_emulated_link_and_are_counted(model):
    waits: list[float] = []
    diary = Diary(ModelDrafter(model.without_middle_layers()), wants=WANTED)
    link = EmulatedLink(LocalTarget(model), 0.05, sleep=waits.append)
    rounds = follow_rounds(model, [diary], target=link)
    check(model, diary)
    of_a_token = 4 * len(LAYERS) * 32  # float32, each as wide as the model
    of_the_prompt = of_a_token * (len(PROMPT) - 1)
    assert [one.state_bytes for one in rounds] == [
        of_a_token * (1 + one.num_drafted) + of_the_prompt * (one.round == 0) for one in rounds
    ]
    assert all(one.reads_states for one in rounds)
    back_s = [0.025 + one.state_bytes / STATE_BYTES_PER_S for one in rounds]
    assert waits == [wait for one in back_s for wait in (0.025, one)]


def test_nothing_is_counted_where_nothing_is_asked_for_or_no_link_is_crossed(model):
    asks, plain = Diary(NgramDrafter(), wants=WANTED), NgramDrafter()
    link = EmulatedLink(LocalTarget(model), 0.05, sleep=lambda _: None)
    for drafter, target in ((asks, None), (plain, link)):
        rounds = follow_rounds(model, [drafter], target=target)
        assert not any(one.state_bytes for one in rounds)
        assert {one.reads_states for one in rounds} == {drafter is asks}


def test_attention_weights_come_with_each_call_that_asks_for_them(model):
    run = LocalTarget(model).start(PROMPT, Wanted(attention=True))
    draft = RealTree(model).propose(PROMPT, Budget(2, 8), Sampler(1.0), np.random.default_rng(0))
    scores = run.score(PROMPT, draft)
    assert scores.hidden is None
    assert len(scores.attention) == 3
    num_slots = len(PROMPT) + len(draft)
    for weights in scores.attention:
        assert weights.shape == (4, 1 + len(draft), num_slots)
        np.testing.assert_allclose(weights.sum(axis=2), 1.0, atol=1e-5)
        for node in range(len(draft)):
            seen = {len(PROMPT) + one for one in draft.path_to(node)} | set(range(len(PROMPT)))
            unseen = [slot for slot in range(num_slots) if slot not in seen]
            assert not weights[:, node + 1, unseen].any()


class Opaque(ToyModel):
    def cannot_give(self, layers, attention):
        return "A toy has no layers; choose a real model."


def test_what_a_target_cannot_give_is_said_before_the_run():
    target = LocalTarget(Opaque())
    assert target.cannot_give(LOGITS_ONLY) is None
    assert "no layers" in target.cannot_give(WANTED)
    settings = RoundSettings(Diary(NgramDrafter(), wants=WANTED), 2, Sampler(0.0))
    with pytest.raises(SettingsError, match="no layers"):
        next(generate(PROMPT, target, settings, max_tokens=4))


def test_a_layer_that_is_not_there_is_said_before_the_run(model):
    settings = RoundSettings(Diary(NgramDrafter(), wants=Wanted((3,))), 2, Sampler(0.0))
    with pytest.raises(SettingsError, match="layers 0 to 2"):
        next(generate(PROMPT, LocalTarget(model), settings, max_tokens=4))


def test_a_pair_whose_draft_needs_what_the_target_keeps_is_refused(monkeypatch):
    head = Diary(NgramDrafter(), "head", WANTED)
    monkeypatch.setitem(pair._LOOKUPS, "ngram", lambda: head)
    with pytest.raises(SettingsError, match="head cannot draft for toy-0: A toy has no layers"):
        make_drafter("ngram", LoadedModel(Opaque(), None), "portable")
