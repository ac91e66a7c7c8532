"""What a target is: it scores a draft, and says what its answer is exact for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.records import Draft


@dataclass(frozen=True, slots=True)
class Exactness:
    """What the output law is guaranteed to be; `reason` says why it is not more.

    `kind` is "exact" (the target's full distribution), "top_k" (exact for the target sampled
    with top-k = `top_k`) or "approximate".
    """

    kind: str = "exact"
    reason: str = ""
    top_k: int | None = None

    def __str__(self) -> str:
        words = {
            "exact": "exact: the full distribution of the target",
            "top_k": f"exact for top-k = {self.top_k}",
            "approximate": "approximate",
        }[self.kind]
        return f"{words} ({self.reason})" if self.reason else words


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The target's answer to one draft.

    `logits[0]` [vocab_size] stands after the context, `logits[i + 1]` after node i; None where
    the target could not score. Log-probabilities are logits too. `link_s` is the time of the
    call that was spent on the network.
    """

    logits: Sequence[NDArray[np.floating[Any]] | None]
    link_s: float = 0.0


class TargetRun(Protocol):
    """A target's state within one run."""

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        """Score every node of `draft` after `context` in one call.

        Raises:
            TargetError: the target did not answer, or not usably.
        """
        ...

    def close(self) -> None:
        """Release what the run holds."""
        ...


class Target(Protocol):
    """A target with its weights or connection, shared by every run."""

    @property
    def name(self) -> str: ...

    @property
    def backend(self) -> str:
        """Return what runs it: "portable", "mlx", or the wire protocol of a server."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def exactness(self) -> Exactness: ...

    @property
    def link_is_emulated(self) -> bool: ...

    def start(self, prompt: Sequence[int]) -> TargetRun:
        """Read the prompt and return the state of a new run."""
        ...
