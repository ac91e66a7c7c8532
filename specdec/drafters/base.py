"""What a drafter is: it sees the context and proposes a tree of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from specdec.acceptance import Draft
from specdec.sampling import Sampler


class DrafterRun(Protocol):
    """A drafter's state within one run: caches and tables, never weights."""

    def propose(
        self,
        context: Sequence[int],
        num_tokens: int,
        sampler: Sampler,
        rng: np.random.Generator,
    ) -> Draft:
        """Draft at most `num_tokens` tokens deep after `context`; an empty draft is allowed.

        Whether to draft a further token may depend on anything known *before* it is drawn; a
        token once drawn stays in the draft, or the output would be biased (algorithms: dropping
        a sampled draft because of its own probability).
        """
        ...

    def close(self) -> None:
        """Release what the run holds."""
        ...


class Drafter(Protocol):
    """A drafting strategy with its weights, shared by every run."""

    @property
    def name(self) -> str: ...

    def start(self, prompt: Sequence[int]) -> DrafterRun:
        """Read the prompt and return the state of a new run."""
        ...
