"""Drafts nothing: plain decoding, one token per target call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.sampling import Sampler


class NoDrafter:
    """The baseline as a drafting strategy; it keeps no state, so it is its own run."""

    name = "none"

    def start(self, prompt: Sequence[int]) -> NoDrafter:
        return self

    def propose(
        self,
        context: Sequence[int],
        num_tokens: int,
        sampler: Sampler,
        rng: np.random.Generator,
    ) -> Draft:
        return Draft()

    def close(self) -> None:
        """Hold nothing, release nothing."""
