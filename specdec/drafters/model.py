"""A language model as drafter: any small model, or the target itself with layers left out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.models.base import LanguageModel
from specdec.models.context import CachedContext
from specdec.policies.base import Budget
from specdec.sampling import Distribution, Sampler, sample


class ModelDrafter(Drafter):
    """Draw a chain of tokens, one forward pass each, with the target's own sampler."""

    def __init__(self, model: LanguageModel, name: str | None = None) -> None:
        self.model = model
        self._name = name or model.name

    @property
    def name(self) -> str:
        return self._name

    def start(self, prompt: Sequence[int]) -> ModelDrafterRun:
        return ModelDrafterRun(self.model, prompt)


class ModelDrafterRun(DrafterRun):
    """The drafter's KV cache of one run, kept in step with the context by `CachedContext`."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int]) -> None:
        self._context = CachedContext(model)
        self._limit = model.context_length
        if len(prompt) < self._limit:  # or it never drafts: the target may read further than it
            self._context.prefill(prompt)

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        sequence = list(context)
        distributions: list[Distribution] = []
        sample_s = 0.0
        for _ in range(min(budget.depth, self._limit - len(context))):
            logits = self._context.score(sequence)[-1]
            began_s = time.perf_counter()
            distribution = Distribution.from_logits(logits, sampler)
            sequence.append(sample(distribution.probs, rng))
            distributions.append(distribution)
            sample_s += time.perf_counter() - began_s
        return Draft.chain(sequence[len(context) :], distributions, sample_s)

    def close(self) -> None:
        self._context.cache.truncate(0)
