"""Who may draft together, and what they need of the target."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.drafters.branches import BranchesDrafter
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Wanted
from specdec.targets.local import LocalTarget
from tests.test_engine import PROMPT, Diary
from tests.toy import ToyModel

KINDS = [EnsembleDrafter, BranchesDrafter]


def named(*names: str) -> list[Diary]:
    return [Diary(NgramDrafter(), name) for name in names]


def test_the_name_is_made_of_the_members_names_in_their_order() -> None:
    assert EnsembleDrafter(named("b", "a")).name == "b+a"
    assert BranchesDrafter(named("b", "a", "c")).name == "b|a|c"


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_too_few_five_are_too_many_and_nobody_counts_twice(kind) -> None:
    with pytest.raises(SettingsError, match="2 to 4, not 1"):
        kind(named("a"))
    with pytest.raises(SettingsError, match="2 to 4, not 5"):
        kind(named(*"abcde"))
    with pytest.raises(SettingsError, match="a, b, a"):
        kind(named(*"aba"))


@pytest.mark.parametrize("kind", KINDS)
def test_all_want_what_their_members_want_together(kind) -> None:
    def wants(*each: Wanted) -> Wanted:
        members = [Diary(NgramDrafter(), str(i), wanted) for i, wanted in enumerate(each)]
        return kind(members).wants

    assert wants(LOGITS_ONLY, LOGITS_ONLY) == LOGITS_ONLY
    assert wants(Wanted((1, 2)), LOGITS_ONLY, Wanted((1, 2))) == Wanted((1, 2))
    assert wants(Wanted((), True), Wanted((3,))) == Wanted((3,), True)
    with pytest.raises(SettingsError, match="0 and 2 read different layers"):
        wants(Wanted((1,)), LOGITS_ONLY, Wanted((2,)))


@pytest.mark.parametrize("kind", KINDS)
def test_only_who_wants_hidden_states_gets_them_and_of_what_the_target_has_read(kind) -> None:
    curious = Diary(ModelDrafter(ToyModel(0, noise=0.3)), "curious", Wanted((1,)))
    content = Diary(ModelDrafter(ToyModel(0, noise=0.6)), "content")
    settings = RoundSettings(kind([curious, content]), 3, Sampler(1.0))
    list(generate(PROMPT, LocalTarget(ToyModel(0)), settings, max_tokens=20))
    assert {hidden is None for _, _, hidden in content.asked} == {True}
    read = 0
    for context, _, hidden in curious.asked:
        assert hidden.shape == (len(hidden), 1, 4)
        assert (
            hidden[:, 0, 3].tolist() == context[: len(hidden)]
        )  # the toy's state ends in its token
        assert len(context) - 3 <= len(hidden) <= len(context) - 1
        read = max(read, len(hidden))
    assert read > len(PROMPT)


@pytest.mark.parametrize("kind", KINDS)
def test_who_began_is_closed_at_the_end_and_where_another_cannot_begin(kind) -> None:
    closed = []

    class Closing(NoDrafter):
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)

    class Broken(Closing):
        def start(self, prompt):
            raise SettingsError("It does not begin.")

    run = kind([Closing("a"), Closing("b")]).start(PROMPT)
    assert closed == []
    run.close()
    assert sorted(closed) == ["a", "b"]
    closed.clear()
    with pytest.raises(SettingsError, match="does not begin"):
        kind([Closing("a"), Broken("b")]).start(PROMPT)
    assert closed == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_members_with_nothing_to_say_draft_nothing(kind) -> None:
    run = kind([NoDrafter(), NgramDrafter()]).start([1, 2, 3])
    draft = run.propose([1, 2, 3], Budget.chain(4), Sampler(), np.random.default_rng(0))
    assert len(draft) == 0
