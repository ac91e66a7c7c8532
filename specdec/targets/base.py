"""What a target is: it scores a draft, and says what its answer is exact for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Exactness:
    """Which law the output follows for certain; `reason` says why it is not the one asked for.

    `kind` is one of

    - "exact": the target's distribution under the sampler that was asked for;
    - "top_k": the target's distribution under that sampler with its top-k lowered to `top_k`,
      because the target tells no more than its `top_k` likeliest tokens;
    - "approximate": neither; `top_k` says where the distribution was cut off besides.
    """

    kind: str = "exact"
    reason: str = ""
    top_k: int | None = None

    def __str__(self) -> str:
        words = {
            "exact": "exact",
            "top_k": f"exact for top-k = {self.top_k}",
            "approximate": "approximate",
        }[self.kind]
        return f"{words}: {self.reason}" if self.reason else words


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The target's answer to one draft.

    `logits[0]` [vocab_size] stands after the context, `logits[i + 1]` after node i; None where
    the target could not score. Log-probabilities are logits too. `link_s` is the share of the
    call that was spent on the network, 0 where that cannot be measured. `retry_s` is the time
    lost before the call that succeeded, in failed attempts and in waiting; it is no part of
    verification.
    """

    logits: Sequence[NDArray[np.floating[Any]] | None]
    link_s: float = 0.0
    retry_s: float = 0.0


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
    def link_is_emulated(self) -> bool: ...

    def exactness_for(self, sampler: Sampler) -> Exactness:
        """Say which law the output of a run with `sampler` follows."""
        ...

    def start(self, prompt: Sequence[int]) -> TargetRun:
        """Read the prompt and return the state of a new run."""
        ...
