"""A target on this machine: a language model and a KV cache per run."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.acceptance import Draft
from specdec.models.base import LanguageModel
from specdec.models.context import CachedContext
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores, Wanted


class LocalTarget:
    """Score drafts with a local model, in one forward pass per round."""

    link_is_emulated = False

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.name = model.name
        self.backend = model.backend
        self.vocab_size = model.vocab_size
        self.context_length = model.context_length

    def exactness_for(self, sampler: Sampler) -> Exactness:
        return Exactness()

    def cannot_give(self, wanted: Wanted) -> str | None:
        return None if not wanted else "not yet"

    def start(self, prompt: Sequence[int], wanted: Wanted = LOGITS_ONLY) -> LocalTargetRun:
        return LocalTargetRun(self.model, prompt)


class LocalTargetRun:
    """The target's KV cache of one run."""

    read_hidden = None

    def __init__(self, model: LanguageModel, prompt: Sequence[int]) -> None:
        self._context = CachedContext(model)
        self._context.prefill(prompt)

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        return Scores(logits=list(self._context.score(context, draft)))

    def close(self) -> None:
        self._context.cache.truncate(0)
