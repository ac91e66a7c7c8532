"""K as it is set: a chain of that length, whatever came before."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.policies.base import Budget
from specdec.records import FIXED_POLICY, RoundResult


class FixedPolicy:
    """The policy without memory, which is its own run."""

    name = FIXED_POLICY

    def start(self) -> FixedPolicy:
        return self

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        return Budget.chain(num_draft_tokens)
