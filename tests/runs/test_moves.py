"""Every change of K has its words, whoever made it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from specdec.engine import RoundSettings, generate
from specdec.policies.named import POLICIES
from specdec.records import RoundResult
from specdec.runs.moves import Move, is_steered, moves
from specdec.sampling import Sampler
from tests.made_runs import PROMPT, tiny_pair, tiny_run


@pytest.fixture
def rounds(tmp_path):
    return tiny_run(tmp_path, k=3).rounds


def steered(folder, policy, num_tokens=80):
    pair = tiny_pair(folder)
    settings = RoundSettings(pair.drafter, 4, Sampler(1.0), POLICIES[policy])
    prompt = pair.tokenizer.encode(PROMPT)
    events = generate(prompt, pair.target, settings, max_tokens=num_tokens, seed=3)
    return [event for event in events if isinstance(event, RoundResult)]


def test_a_fixed_k_has_nothing_to_tell(rounds):
    assert moves(rounds) == []
    assert not is_steered(rounds)
    assert not is_steered([])


def test_a_k_that_somebody_set_is_told(rounds):
    changed = [replace(r, num_draft_tokens=5 if r.round >= 2 else 3) for r in rounds]
    assert moves(changed) == [Move(2, 5, "K 3 → 5: set so while the run went on.")]
    assert is_steered(changed)


def test_another_policy_is_told_even_where_k_stays(rounds):
    changed = [replace(r, policy="hf" if r.round else "fixed") for r in rounds]
    assert moves(changed) == [Move(1, 3, "From here on the policy is hf, no longer fixed.")]


def test_a_reason_of_the_very_first_round_is_not_lost(rounds):
    first = replace(rounds[0], policy="adaptive", reason="Because.")
    assert moves([first]) == [Move(0, 3, "Because.")]


@pytest.mark.parametrize("policy", ["adaptive", "hf", "entropy"])
def test_every_change_of_k_by_a_policy_is_a_move_with_words(tmp_path, policy):
    rounds = steered(tmp_path, policy)
    made = {move.round: move for move in moves(rounds)}
    assert is_steered(rounds)
    for before, after in pairwise(rounds):
        k_moved = before.num_draft_tokens != after.num_draft_tokens
        assert (after.round in made) is (k_moved or bool(after.reason))
        if after.round in made:
            assert made[after.round].num_draft_tokens == after.num_draft_tokens
            assert made[after.round].why.endswith(".")
            if after.reason:
                assert made[after.round].why == after.reason
