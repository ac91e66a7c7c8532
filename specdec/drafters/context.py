"""A draft model seen from the target: what it reads of the text, and what it would say next.

Chains and trees are drafted through it, so that they need not know whether the model has the
target's vocabulary. Here it has; `translated.py` has the context of a model with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.acceptance import Draft
from specdec.drafters.base import Hidden
from specdec.models.base import LanguageModel, Logits
from specdec.models.context import CachedContext
from specdec.sampling import Distribution, FloatArray, Sampler


class DraftContext:
    """The draft model's KV cache of one run, kept in step with the text by `CachedContext`."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int]) -> None:
        """Read `prompt`, which is in the target's tokens.

        One that does not fit is not fed, and nothing is ever drafted after it: the target may
        read further than the draft model.
        """
        self._cached = CachedContext(model)
        own = self.read(prompt)
        if self.room(own) > 0:
            self._cached.prefill(own)

    def read(self, context: Sequence[int], hidden: Hidden | None = None) -> list[int]:
        """Return the target's tokens so far as the draft model reads them: in its own.

        `hidden` holds the target's states of them, as `DrafterRun.propose` has it.
        """
        return list(context)

    def own_id(self, token_id: int) -> int:
        """Return the draft model's id of a token of the target's that it proposed."""
        return token_id

    def room(self, own: Sequence[int]) -> int:
        """Return how many tokens may be drafted one after the other; it may be below 0."""
        return self._cached.model.context_length - len(own)

    def score(self, own: Sequence[int], tree: Draft | None = None) -> Logits:
        """Return the model's logits after `own` and after each node of `tree`, its own ids both."""
        return self._cached.score(own, tree)

    def distribution(self, logits: FloatArray, sampler: Sampler) -> Distribution | None:
        """Return the law of the next token over the target's vocabulary, from a row of `score`.

        None where the model could say nothing that the target knows.
        """
        return Distribution.from_logits(logits, sampler)

    def close(self) -> None:
        """Release the cache."""
        self._cached.cache.truncate(0)


OpenContext = Callable[[Sequence[int]], DraftContext]
"""Reads a prompt, in the target's tokens, and returns the context of a new run."""
