"""A language model as drafter: any small model, or the target itself with layers left out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.drafters.context import DraftContext
from specdec.models.base import LanguageModel
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

    def open_context(self, prompt: Sequence[int]) -> DraftContext:
        """Read the prompt and return what is drafted from in a new run."""
        return DraftContext(self.model, prompt)

    def start(self, prompt: Sequence[int]) -> ModelDrafterRun:
        return ModelDrafterRun(self.open_context(prompt))


class ModelDrafterRun(DrafterRun):
    """The draft model's context in one run."""

    def __init__(self, context: DraftContext) -> None:
        self._context = context

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        own = self._context.read(context, hidden)
        token_ids: list[int] = []
        distributions: list[Distribution] = []
        sample_s = 0.0
        for _ in range(min(budget.depth, self._context.room(own))):
            logits = self._context.score(own)[-1]
            began_s = time.perf_counter()
            distribution = self._context.distribution(logits, sampler)
            if distribution is None or budget.stops_at(distribution):
                break  # known before anything is drawn
            token_id = sample(distribution.probs, rng)
            own.append(self._context.own_id(token_id))
            token_ids.append(token_id)
            distributions.append(distribution)
            sample_s += time.perf_counter() - began_s
        return Draft.chain(token_ids, distributions, sample_s)

    def close(self) -> None:
        self._context.close()
