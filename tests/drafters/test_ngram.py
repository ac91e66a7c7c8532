"""Prompt lookup: longest match first, then the most recent one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies

from specdec.drafters.ngram import NgramDrafter
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.sampling import Sampler

RNG = np.random.default_rng(0)


def propose(context: list[int], num_tokens: int = 3, **options: int) -> list[int]:
    run = NgramDrafter(**options).start(context)
    return list(run.propose(context, Budget.chain(num_tokens), Sampler(), RNG).token_ids)


def test_the_continuation_of_the_last_occurrence_is_drafted() -> None:
    assert propose([1, 2, 3, 4, 1, 2]) == [3, 4, 1]
    assert propose([1, 2, 3, 9, 1, 2, 5, 9, 1, 2]) == [5, 9, 1]


def test_a_longer_match_wins_over_a_more_recent_one() -> None:
    assert propose([7, 1, 2, 3, 8, 2, 4, 7, 1, 2]) == [3, 8, 2]


def test_nothing_seen_before_drafts_nothing() -> None:
    assert propose([1, 2, 3, 4]) == []
    assert propose([1]) == []
    assert propose([1, 2, 3, 1, 2], min_ngram=3) == []


def test_an_overlapping_match_may_run_into_the_end() -> None:
    assert propose([5, 5, 5]) == [5]


@given(
    context=strategies.lists(strategies.integers(0, 3), min_size=1, max_size=40),
    cuts=strategies.lists(strategies.integers(1, 40), max_size=4),
)
def test_the_index_grown_round_by_round_equals_a_scan(context: list[int], cuts: list[int]) -> None:
    run = NgramDrafter().start(context)
    for cut in [*sorted(min(c, len(context)) for c in cuts), len(context)]:
        seen = context[:cut]
        got = list(run.propose(seen, Budget.chain(3), Sampler(), RNG).token_ids)
        assert got == scan(seen, 3)


def scan(context: list[int], num_tokens: int) -> list[int]:
    for size in range(4, 0, -1):
        tail = context[-size:]
        for end in range(len(context) - 1, size - 1, -1):
            if size < len(context) and context[end - size : end] == tail:
                return context[end : end + num_tokens]
    return []


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(SettingsError, match="min"):
        NgramDrafter(max_ngram=2, min_ngram=3)
