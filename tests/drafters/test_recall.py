"""Prompt lookup over earlier answers: what is recalled, and that it changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.drafters.none import NoDrafter
from specdec.drafters.recall import RecallDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import StoreError
from specdec.policies.base import Budget
from specdec.records import RunSummary
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.toy import ToyModel

PROMPT = [1, 2, 3]
RNG = np.random.default_rng(0)


def proposed(answers: list[list[int]], written: list[int], num_tokens: int = 3) -> list[int]:
    run = RecallDrafter(lambda prompt: answers, vocab_size=100).start(PROMPT)
    draft = run.propose([*PROMPT, *written], Budget.chain(num_tokens), Sampler(), RNG)
    return list(draft.token_ids)


@pytest.mark.parametrize(
    ("answers", "written", "drafted"),
    [
        ([], [], []),
        ([[]], [], []),
        ([[7, 8, 9, 4]], [], [7, 8, 9]),  # it goes on where the prompt ends
        ([[7, 8, 9, 4]], [7, 8], [9, 4]),
        ([[7, 8, 9, 4]], [7, 8, 9, 4], []),  # what was said last had no continuation
        ([[7, 5, 6], [7, 8, 9]], [7], [5, 6]),  # the latest answer comes first
        ([[7, 7, 7, 4]], [7, 7, 7], [4]),  # the same so far goes before the same words here
        ([[7, 8, 9, 4]], [6, 7, 8, 5, 7, 8], [5, 7, 8]),  # the same words in this run are nearer
        ([[6, 7, 8, 4]], [7, 8, 5, 6, 7, 8], [4]),  # a longer match is better evidence
        ([[7, 100, 8]], [7], []),  # of another vocabulary
    ],
)
def test_what_is_proposed(answers: list[list[int]], written: list[int], drafted: list[int]) -> None:
    assert proposed(answers, written) == drafted


def test_earlier_answers_are_asked_for_once_in_a_run_and_with_its_prompt() -> None:
    asked = []
    drafter = RecallDrafter(lambda prompt: asked.append(list(prompt)) or [], vocab_size=100)
    run = drafter.start(PROMPT)
    for _ in range(3):
        run.propose(PROMPT, Budget.chain(2), Sampler(), RNG)
    assert asked == [PROMPT]


def written_by(drafter, k: int) -> RunSummary:
    settings = RoundSettings(drafter, k, Sampler(0.0))
    *rounds, summary = generate(PROMPT, LocalTarget(ToyModel(3)), settings, max_tokens=41)
    tokens = [token for one in rounds[1:] for token in getattr(one, "emitted", ())]
    return summary, tokens


@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_at_temperature_0_the_text_is_plain_decodings_and_a_true_memory_is_taken_whole(
    wrong,
) -> None:
    plain, tokens = written_by(NoDrafter(), 0)
    memory = [
        token if i % 6 or not wrong else (token + wrong) % ToyModel(3).vocab_size
        for i, token in enumerate(tokens)
    ]
    summary, again = written_by(RecallDrafter(lambda prompt: [memory], ToyModel(3).vocab_size), 4)
    assert again == tokens
    assert summary.num_target_calls < plain.num_target_calls
    if not wrong:
        assert summary.num_accepted_draft_tokens == summary.num_draft_tokens


def test_a_store_that_does_not_answer_is_said() -> None:
    def refuse(prompt):
        raise StoreError("The database does not answer.")

    settings = RoundSettings(RecallDrafter(refuse, 9), 2, Sampler())
    with pytest.raises(StoreError, match="does not answer"):
        list(generate(PROMPT, LocalTarget(ToyModel(3)), settings, max_tokens=4))
