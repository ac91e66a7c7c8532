"""What the project asks of a language model: token ids in, logits for every fed position out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""[num_fed, vocab_size]; −inf where a model with a reduced head has no logit."""


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
        """Return "portable" or "mlx"."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def supports_trees(self) -> bool:
        """Say whether `forward` takes explicit positions and a mask."""
        ...

    def new_cache(self) -> Cache: ...

    def without_middle_layers(self) -> LanguageModel:
        """Return the same weights with a run of middle layers left out (self-speculation)."""
        ...

    def prefill(self, token_ids: Sequence[int], cache: Any) -> None:
        """Feed a long run of tokens for their keys and values only."""
        ...

    def forward(
        self,
        token_ids: Sequence[int],
        cache: Any,
        *,
        parents: Sequence[int] | None = None,
        attention: list[NDArray[np.float32]] | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones and return the logits [num_fed, vocab_size] of each.

        Args:
            token_ids: the tokens to feed, at most 64.
            cache: grows by one slot per token.
            parents: for a tree, the index among `token_ids` of each token's parent, −1 for the
                last cached token: a token then sees the cached ones, its ancestors and itself,
                and stands at the position its depth gives it. A chain by default.
            attention: where given, the attention weights [num_heads, num_fed, num_slots] of each
                layer are appended to it (slower; not on every backend).
        """
        ...


def middle_layers(num_layers: int) -> range:
    """Return the run of middle layers that self-speculation leaves out: about a fifth of them.

    The place is the one measured best on SmolLM2 (13–18 of 0–29; Zhang et al. 2023,
    https://arxiv.org/abs/2309.08168); a model of one layer keeps it.
    """
    num_skipped = min(max(1, num_layers // 5), num_layers - 1)
    first = num_layers // 2 - num_skipped // 3
    return range(first, first + num_skipped)
