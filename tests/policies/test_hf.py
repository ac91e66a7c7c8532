"""Hugging Face's schedule, step by step."""

from __future__ import annotations

import pytest

from specdec.policies.hf import HuggingFacePolicy
from tests.policies.worlds import make_round


def schedule(start: int, accepted: list[int | None], policy: str = "hf") -> list[int]:
    """Return K of each round; None stands for a round in which nothing was drafted."""
    run, rounds, depths = HuggingFacePolicy().start(), [], []
    for number, count in enumerate([*accepted, 0]):
        depths.append(run.budget(rounds, start).depth)
        depth = 0 if count is None else depths[-1]
        rounds.append(make_round(number, depths[-1], depth, min(count or 0, depth), policy=policy))
    return depths


ALL = 99


@pytest.mark.parametrize(
    ("start", "accepted", "expected"),
    [
        (5, [ALL, ALL, 3, 0], [5, 7, 9, 8, 7]),
        (2, [0, 0, 0, ALL], [2, 1, 1, 1, 3]),
        (15, [ALL, ALL, 15], [15, 16, 16, 15]),
        (0, [ALL, 1], [1, 3, 2]),
        (4, [None, None, ALL], [4, 4, 4, 6]),
    ],
)
def test_k_rises_by_two_after_a_whole_draft_and_falls_by_one_after_any_other(
    start: int, accepted: list[int | None], expected: list[int]
) -> None:
    assert schedule(start, accepted) == expected


def test_a_round_of_another_policy_moves_nothing() -> None:
    assert schedule(4, [ALL, ALL, 0], policy="fixed") == [4, 4, 4, 4]


def test_each_move_has_its_reason_and_what_stays_has_none() -> None:
    run, rounds, reasons = HuggingFacePolicy().start(), [], []
    for accepted in (2, 3, 0, 0, 0):
        budget = run.budget(rounds, 2)
        reasons.append(budget.reason)
        rounds.append(make_round(len(rounds), budget.depth, budget.depth, accepted, policy="hf"))
    assert reasons == [
        "",
        "K 2 → 4: 2 of 2 were accepted.",
        "K 4 → 3: 3 of 4 were accepted.",
        "K 3 → 2: 0 of 3 were accepted.",
        "K 2 → 1: 0 of 2 were accepted.",
    ]
    assert run.budget(rounds, 2).reason == ""
