"""How K went over the rounds of a run, and what every move of it was made for, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from specdec.records import FIXED_POLICY, RoundResult


@dataclass(frozen=True, slots=True)
class Move:
    """A round, counted from 0, in which the policy moved something: K, or where drafting stops."""

    round: int
    num_draft_tokens: int
    why: str


def moves(rounds: Sequence[RoundResult]) -> list[Move]:
    """Return every move: those a policy gave a reason for, and every other change of K."""
    made = [Move(r.round, r.num_draft_tokens, r.reason) for r in rounds[:1] if r.reason]
    for before, after in pairwise(rounds):
        why = after.reason or _unsaid(before, after)
        if why:
            made.append(Move(after.round, after.num_draft_tokens, why))
    return made


def _unsaid(before: RoundResult, after: RoundResult) -> str:
    """Say why K is another one where the policy said nothing; empty where it is the same."""
    if after.policy != before.policy:
        return f"From here on the policy is {after.policy}, no longer {before.policy}."
    if after.num_draft_tokens == before.num_draft_tokens:
        return ""
    moved = f"K {before.num_draft_tokens} → {after.num_draft_tokens}"
    if after.policy == FIXED_POLICY:
        return f"{moved}: set so while the run went on."
    return f"{moved}: back again, as the round before gave no reason to stay."


def is_steered(rounds: Sequence[RoundResult]) -> bool:
    """Say whether there is anything to tell: a policy that moves K was at work, or K moved."""
    return any(result.policy != FIXED_POLICY for result in rounds) or bool(moves(rounds))
