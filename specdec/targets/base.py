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
    - "rounded": the same, up to rounding: logits depend in their last bits on how many tokens are
      verified at once, so that a near tie can fall the other way than in plain decoding;
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
            "rounded": "exact up to rounding of this backend",
            "top_k": f"exact for top-k = {self.top_k}",
            "approximate": "approximate",
        }[self.kind]
        return f"{words}: {self.reason}" if self.reason else words


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a target beside its logits.

    `hidden_layers` names the layers, counted from 0, whose output is wanted for every token (−1 is
    the state after the final norm); `attention` asks for the attention weights of every layer.
    """

    hidden_layers: tuple[int, ...] = ()
    attention: bool = False

    def __bool__(self) -> bool:
        return bool(self.hidden_layers) or self.attention

    def covers(self, other: Wanted) -> bool:
        """Say whether who gets this has what `other` asks for, in the very form it asks for."""
        return not other or (
            self.hidden_layers == other.hidden_layers and self.attention >= other.attention
        )


LOGITS_ONLY = Wanted()


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The target's answer to one draft.

    `logits[0]` [vocab_size] stands after the context, `logits[i + 1]` after node i; None where
    the target could not score. Log-probabilities are logits too. `link_s` is the share of the
    call that was spent on the network, 0 where that cannot be measured. `retry_s` is the time
    lost before the call that succeeded, in failed attempts and in waiting; it is no part of
    verification.

    `num_sequences` is how many token sequences a draft was taken apart into to be scored: 1 where
    it went through in one pass.

    `state_bytes` counts the hidden states that came over the link with this answer.

    Only where the run was started to give them: `hidden` [1 + num_drafted, num_layers, width], the
    hidden states behind each row of `logits`; `attention`, for each layer the weights
    [num_heads, 1 + num_drafted, num_slots] from each row to what it saw.
    """

    logits: Sequence[NDArray[np.floating[Any]] | None]
    link_s: float = 0.0
    retry_s: float = 0.0
    num_sequences: int = 1
    state_bytes: int = 0
    hidden: NDArray[np.float32] | None = None
    attention: Sequence[NDArray[np.float32]] | None = None


class HiddenStates:
    """The hidden states of a growing context, in one array that doubles as it fills up."""

    def __init__(self, rows: NDArray[np.float32] | None) -> None:
        """Begin with `rows` [num_tokens, num_layers, width]; None where none are wanted."""
        self._rows = rows
        self._count = 0 if rows is None else len(rows)

    @property
    def rows(self) -> NDArray[np.float32] | None:
        """Return all rows so far [num_tokens, num_layers, width]."""
        return None if self._rows is None else self._rows[: self._count]

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add the rows of the tokens that follow."""
        assert self._rows is not None
        needed = self._count + len(rows)
        if not self._count:
            self._rows = rows  # a prompt of one token left none, and no width
        elif needed > len(self._rows):
            grown = np.empty((2 * needed, *self._rows.shape[1:]), np.float32)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count : needed] = rows
        self._count = needed


class TargetRun(Protocol):
    """A target's state within one run."""

    @property
    def read_hidden(self) -> NDArray[np.float32] | None:
        """Return the hidden states of the prompt [len(prompt) − 1, num_layers, width].

        The prompt's last token is scored with the first draft. None where none are wanted.
        """
        ...

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

    def cannot_give(self, wanted: Wanted) -> str | None:
        """Say in one sentence why `wanted` is not to be had of this target, None where it is."""
        ...

    def start(self, prompt: Sequence[int], wanted: Wanted = LOGITS_ONLY) -> TargetRun:
        """Read the prompt and return the state of a new run, which gives `wanted` with each call.

        `cannot_give(wanted)` must be None.
        """
        ...
