"""What a policy is: it sees the rounds so far and decides how far the next draft may go.

Whatever it decides depends on the past only, so the output keeps its law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from specdec.policies.costs import Costs
from specdec.records import RoundResult
from specdec.sampling import Distribution

MAX_NODES = 64
"""The most tokens in one draft, whatever its shape."""
MAX_DEPTH = 16
"""The most that a policy may let stand one after the other, which is also the largest K to set."""

Stop = Callable[[Distribution], bool]
"""Says whether to draft no further, from the law that the next token would be drawn from."""


def never(law: Distribution) -> bool:
    """Draft as far as the budget goes."""
    return False


@dataclass(frozen=True, slots=True)
class Budget:
    """How far a draft may go: `depth` tokens one after the other, `num_nodes` tokens in all.

    A drafter asks `stops_at` whether to end before each draw and never after it: a token that
    is dropped because of what it turned out to be would bias the output. `reason` says in one
    sentence what moved the decision, and is empty where nothing did. `costs` is what the rounds so
    far have cost, for drafters that weigh it themselves; None before there were any.
    """

    depth: int
    num_nodes: int
    stops_at: Stop = never
    reason: str = ""
    costs: Costs | None = None

    @classmethod
    def chain(cls, depth: int, stops_at: Stop = never, reason: str = "") -> Budget:
        """Allow one token at each of `depth` positions."""
        return cls(depth, depth, stops_at, reason)

    def cut(self, depth: int) -> Budget:
        """Return the budget of a draft that may be no deeper than `depth`, which may be below 0."""
        depth = max(0, min(self.depth, depth))
        if self.num_nodes <= self.depth or not depth:  # a chain stays one
            return replace(self, depth=depth, num_nodes=min(self.num_nodes, depth))
        return replace(self, depth=depth)


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
