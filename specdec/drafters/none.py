"""Drafts nothing: plain decoding, one token per target call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.policies.base import Budget
from specdec.sampling import Sampler


class NoDrafter(Drafter, DrafterRun):
    """The baseline as a drafting strategy; it keeps no state, so it is its own run."""

    name = "none"

    def start(self, prompt: Sequence[int]) -> NoDrafter:
        return self

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        return Draft()
