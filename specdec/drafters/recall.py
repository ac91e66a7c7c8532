"""Prompt lookup that also reads what saved runs wrote after the same prompt.

Who asks the same thing again, or goes on with an answer that was cut, gets much of the same text:
at temperature 0 all of it. Every drafted token is a point mass, so that the text is the target's
whatever is recalled; but how fast it comes depends on what was saved, so a run of this drafter is
no repetition of the one before, and no part of a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.drafters.ngram import NgramDrafter, NgramRun
from specdec.policies.base import Budget
from specdec.sampling import Sampler

Recall = Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""(prompt) → what was written after it before, prompt not included, the latest first."""


class RecallDrafter(Drafter):
    """Propose what an earlier answer to this prompt said next, or what followed the last words."""

    name = "ngram-saved"

    def __init__(self, recall: Recall, vocab_size: int) -> None:
        """Look up as `NgramDrafter` does.

        Args:
            recall: asked once for each run; what it raises ends the run.
            vocab_size: of the target; an answer with other tokens was another model's.
        """
        self._recall = recall
        self._vocab_size = vocab_size
        self._ngrams = NgramDrafter()

    def start(self, prompt: Sequence[int]) -> RecallRun:
        answers = self._recall(prompt)
        known = [[*prompt, *one] for one in answers if max(one, default=0) < self._vocab_size]
        return RecallRun(self._ngrams.start(prompt), known)


class RecallRun(DrafterRun):
    """Prompt lookup in one run, and whole answers to go on with."""

    def __init__(self, ngrams: NgramRun, known: Sequence[list[int]]) -> None:
        """Look up with `ngrams` where none of `known`, the latest first, is the same so far."""
        self._ngrams = ngrams
        self._known = known
        for text in reversed(known):  # of equal n-grams the latest counts
            ngrams.learn(text)

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        """Go on as an answer did that is the same so far; otherwise look up the last words."""
        so_far, end = list(context), len(context)
        for text in self._known:
            if end < len(text) and text[:end] == so_far:
                return Draft.chain(text[end : end + budget.depth])
        return self._ngrams.propose(context, budget, sampler, rng, hidden)

    def close(self) -> None:
        self._known = ()
        self._ngrams.close()
