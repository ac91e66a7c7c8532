"""What a policy is: it sees the rounds so far and decides how far the next draft may go.

Whatever it decides depends on the past only, so the output keeps its law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specdec.records import RoundResult

MAX_NODES = 64
"""The most tokens in one draft, whatever its shape."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How far a draft may go: `depth` tokens one after the other, `num_nodes` tokens in all."""

    depth: int
    num_nodes: int

    @classmethod
    def chain(cls, depth: int) -> Budget:
        """Allow one token at each of `depth` positions."""
        return cls(depth, depth)

    def cut(self, depth: int) -> Budget:
        """Return the budget of a draft that may be no deeper than `depth`, which may be below 0."""
        depth = max(0, min(self.depth, depth))
        return Budget(depth, self.num_nodes if depth else 0)


class PolicyRun(Protocol):
    """A policy's state within one run."""

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        """Decide the next round's budget.

        Args:
            rounds: all rounds so far, in order.
            num_draft_tokens: K as it is set, for policies that follow it.
        """
        ...


class Policy(Protocol):
    """A way to decide K; its name identifies it, within a run and in traces."""

    @property
    def name(self) -> str: ...

    def start(self) -> PolicyRun:
        """Return the state of a new run."""
        ...
