"""What the project asks of a language model: token ids in, logits for every fed position out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError

Logits = NDArray[np.float32]
"""[num_fed, vocab_size]; −inf where a model with a reduced head has no logit."""

MAX_FORWARD_ROWS = 64
"""The most tokens one `forward` takes."""

AFTER_NORM = -1
"""In `Inside.layers`: the state after the final norm, which the head reads."""


@dataclass(slots=True, eq=False)
class Inside:
    """What a caller wants to see of the tokens it feeds, and then what they gave.

    Row i belongs to the token in slot `first + i` of the cache; whatever is fed with the same
    value adds rows below.

    Attributes:
        layers: after which layers the hidden state is wanted: counted from 0 among those that the
            model runs, or `AFTER_NORM`.
        attention: whether the attention weights are wanted.
        first: the slot of the first row.
        hidden: the states [num_fed, len(layers), hidden_size], without width before the first row.
        attention_weights: of each layer run [num_heads, num_fed, num_slots]; 0 where a token does
            not see a slot. Empty where they are not wanted.
    """

    layers: tuple[int, ...] = ()
    attention: bool = False
    first: int = field(default=0, init=False)
    hidden: NDArray[np.float32] = field(init=False)
    attention_weights: list[NDArray[np.float32]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.hidden = np.empty((0, len(self.layers), 0), np.float32)

    def add(
        self,
        first: int,
        hidden: NDArray[np.float32],
        attention_weights: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        """Take the rows of tokens that were fed into the slots from `first` on."""
        if not len(self.hidden):
            self.first, self.hidden = first, hidden
            self.attention_weights = list(attention_weights)
            return
        assert first == self.first + len(self.hidden)
        self.hidden = np.concatenate([self.hidden, hidden])
        self.attention_weights = [
            np.concatenate([_widened(above, below.shape[2]), below], axis=1)
            for above, below in zip(self.attention_weights, attention_weights, strict=True)
        ]

    def part(self, first: int, end: int) -> Inside:
        """Return the rows of the slots `first` … `end` − 1."""
        rows = slice(first - self.first, end - self.first)
        part = Inside(self.layers, self.attention)
        part.add(first, self.hidden[rows], [w[:, rows, :end] for w in self.attention_weights])
        return part


def _widened(weights: NDArray[np.float32], num_slots: int) -> NDArray[np.float32]:
    """Return attention weights [num_heads, num_fed, num_slots] that see nothing of later slots."""
    return np.pad(weights, ((0, 0), (0, 0), (0, num_slots - weights.shape[2])))


class Cache(Protocol):
    """The keys and values of the tokens fed so far, one slot per token. Owned by one run."""

    @property
    def length(self) -> int:
        """Return the number of filled slots."""
        ...

    def truncate(self, length: int) -> None:
        """Forget every slot from `length` on."""
        ...

    def gather(self, start: int, slots: Sequence[int]) -> None:
        """Move the ascending `slots` (all ≥ `start`) to `start`, `start` + 1, … and drop the rest.

        Keeps the accepted path of a verified tree; for a chain it is a plain truncation.
        """
        ...


class LanguageModel(Protocol):
    """Weights, shared by every run; what a run changes lives in its own `Cache`.

    The caches passed to a model are those its own `new_cache` made.
    """

    @property
    def name(self) -> str: ...

    @property
    def backend(self) -> str:
        """Return "portable" or "mlx", or "torch" with its device and number format."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def supports_trees(self) -> bool:
        """Say whether `forward` takes `parents` that are no chain."""
        ...

    @property
    def batch_invariant(self) -> bool:
        """Say whether logits are the same to the last bit however tokens are fed together."""
        ...

    def new_cache(self) -> Cache: ...

    def without_middle_layers(self) -> LanguageModel:
        """Return the same weights with a run of middle layers left out (self-speculation)."""
        ...

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        """Say why the model cannot fill an `Inside` that asks for this; None where it can."""
        ...

    def prefill(
        self, token_ids: Sequence[int], cache: Any, *, inside: Inside | None = None
    ) -> None:
        """Feed a run of tokens of any length for their keys and values only.

        `inside` takes one row per token, as in `forward`.

        Raises:
            ModelError: the model cannot give what `inside` asks for, or feed the tokens.
        """
        ...

    def forward(
        self,
        token_ids: Sequence[int],
        cache: Any,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones and return the logits [num_fed, vocab_size] of each.

        Args:
            token_ids: the tokens to feed, at most `MAX_FORWARD_ROWS`.
            cache: grows by one slot per token.
            parents: for a tree, the index of each node's parent among its nodes, −1 for the last
                token before the tree. The nodes are what stands in the cache's last slots, as far
                as `parents` is longer than `token_ids`, and then `token_ids`. A token sees the
                slots before the tree, its ancestors and itself, and stands at the position its
                depth gives it. A chain by default.
            inside: takes one row per token. What it asks for changes no logit, but for attention
                weights, which other code computes, more slowly and with other rounding.

        Raises:
            ModelError: the model cannot give what `inside` asks for, or feed the tokens.
        """
        ...


def require(model: LanguageModel, inside: Inside | None) -> None:
    """Raise a ModelError where `model` cannot give what `inside` asks for."""
    refusal = inside and model.cannot_give(inside.layers, inside.attention)
    if refusal:
        raise ModelError(refusal)


def middle_layers(num_layers: int) -> range:
    """Return the run of middle layers that self-speculation leaves out: about a fifth of them.

    The place is the one measured best on SmolLM2 (13–18 of 0–29; Zhang et al. 2023,
    https://arxiv.org/abs/2309.08168); a model of one layer keeps it.
    """
    num_skipped = min(max(1, num_layers // 5), num_layers - 1)
    first = num_layers // 2 - num_skipped // 3
    return range(first, first + num_skipped)
