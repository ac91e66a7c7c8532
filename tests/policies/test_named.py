"""What holds for every policy that can be chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.codec import from_json, to_json
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.policies.base import MAX_DEPTH, Budget
from specdec.policies.named import POLICIES, find_policy
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.settings import MAX_NUM_DRAFT_TOKENS, RunConfig
from specdec.targets.local import LocalTarget
from tests.policies.worlds import make_round
from tests.toy import ToyModel

PROMPT = [1, 2, 3, 1, 2]
DRAFTERS = {
    "none": NoDrafter,
    "ngram": NgramDrafter,
    "noisy model": lambda: ModelDrafter(ToyModel(0, noise=0.5)),
}


def rounds_with(policy: str, drafter: str = "noisy model", k: int = 3, **options):
    settings = RoundSettings(DRAFTERS[drafter](), k, Sampler(0.0), find_policy(policy))
    events = generate(PROMPT, LocalTarget(ToyModel(0)), settings, max_tokens=60, **options)
    return [event for event in events if isinstance(event, RoundResult)]


def test_all_are_there_under_their_own_names() -> None:
    assert list(POLICIES) == ["fixed", "adaptive", "hf", "entropy"]
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k", [0, 3, 16])
def test_at_temperature_zero_the_output_is_plain_decoding(
    policy: str, drafter: str, k: int
) -> None:
    model, context = ToyModel(0), list(PROMPT)
    while len(context) < len(PROMPT) + 60:
        context.append(int(model.logits_after(context).argmax()))
    rounds = rounds_with(policy, drafter, k)
    assert [token for r in rounds for token in r.emitted] == context[len(PROMPT) :]
    assert all(r.num_draft_tokens <= MAX_DEPTH for r in rounds)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_round_names_its_policy(policy: str) -> None:
    assert {r.policy for r in rounds_with(policy)} == {policy}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_clock_that_stands_still_stops_no_policy(policy: str) -> None:
    assert sum(len(r.emitted) for r in rounds_with(policy, clock=lambda: 0.0)) == 60


def test_a_policy_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsError) as refusal:
        RunConfig(policy="nonsense")
    assert str(refusal.value) == (
        "There is no policy 'nonsense'; choose one of fixed, adaptive, hf, entropy."
    )


def test_the_largest_k_to_set_is_the_largest_that_is_decided() -> None:
    assert MAX_DEPTH == MAX_NUM_DRAFT_TOKENS


@pytest.mark.parametrize("policy", POLICIES)
def test_a_round_tells_the_reason_of_its_budget(policy: str) -> None:
    reasons: list[str] = []

    class Told:
        name = policy

        def start(self):
            self._run = find_policy(policy).start()
            return self

        def budget(self, rounds, num_draft_tokens):
            budget = self._run.budget(rounds, num_draft_tokens)
            reasons.append(budget.reason)
            return budget

    settings = RoundSettings(DRAFTERS["noisy model"](), 3, Sampler(0.0), Told())
    events = generate(PROMPT, LocalTarget(ToyModel(0)), settings, max_tokens=60)
    assert [e.reason for e in events if isinstance(e, RoundResult)] == reasons
    assert any(reasons) is (policy != "fixed")


def test_a_reason_is_kept_in_files_and_older_files_have_none() -> None:
    result = replace(make_round(0, 2, 2, 1), reason="K 3 → 2: 1 of 3 were accepted.")
    fields = to_json(result)
    assert from_json(RoundResult, fields, "a round") == result
    del fields["reason"]
    assert from_json(RoundResult, fields, "a round") == replace(result, reason="")


def test_a_budget_that_is_cut_keeps_its_reason_and_where_it_stops() -> None:
    budget = Budget(5, 20, bool, "K 4 → 5: because.")
    assert budget.cut(2) == Budget(2, 20, bool, "K 4 → 5: because.")
    assert budget.cut(-1) == Budget(0, 0, bool, "K 4 → 5: because.")
