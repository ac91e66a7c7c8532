"""Prompt lookup: what followed the last words the last time they stood here.

Saxena 2023 (prompt lookup decoding). The longest recent n-gram that occurred before decides; of
several occurrences the most recent one. An index from n-gram to its last end keeps a lookup at
O(max_ngram), whatever the length of the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.sampling import Sampler


class NgramDrafter(Drafter):
    """Propose the continuation of the most recent occurrence of the longest matching n-gram."""

    name = "ngram"

    def __init__(self, max_ngram: int = 4, min_ngram: int = 1) -> None:
        if not 1 <= min_ngram <= max_ngram:
            raise SettingsError(
                f"The n-gram lengths must satisfy 1 ≤ min ≤ max, not {min_ngram} and {max_ngram}."
            )
        self.max_ngram = max_ngram
        self.min_ngram = min_ngram

    def start(self, prompt: Sequence[int]) -> NgramRun:
        return NgramRun(self.min_ngram, self.max_ngram)


class NgramRun(DrafterRun):
    """The n-gram index of one run; it reads new context as it sees it.

    For each n-gram it knows the text it last stood in, and where it ended there. Other texts than
    the run's own count where that has no answer.
    """

    def __init__(self, min_ngram: int, max_ngram: int) -> None:
        self._sizes = range(max_ngram, min_ngram - 1, -1)
        self._own: dict[tuple[int, ...], int] = {}
        self._others: dict[tuple[int, ...], tuple[Sequence[int], int]] = {}
        self._num_indexed = 0

    def learn(self, text: Sequence[int]) -> None:
        """Take in another text, which counts for more than those learnt before."""
        self._others |= {ngram: (text, end) for ngram, end in self._ngrams(text, 1)}

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        """Look up the end of `context`; propose nothing where it never occurred before.

        With context a b c d a b and n = 2, the n-gram (a, b) ended at index 2 before, so the
        draft for 3 tokens is c d a.
        """
        self._own.update(self._ngrams(context, max(self._num_indexed, 1)))
        self._num_indexed = len(context)
        for size in self._sizes:
            ngram = tuple(context[-size:])
            if ngram in self._own:
                start = self._own[ngram]
                return Draft.chain(context[start : start + budget.depth])
            if ngram in self._others:
                text, start = self._others[ngram]
                return Draft.chain(text[start : start + budget.depth])
        return Draft()

    def _ngrams(self, text: Sequence[int], first: int) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield every n-gram that has a continuation, and its end, if that is `first` or later."""
        for end in range(first, len(text)):
            for size in self._sizes:
                if size <= end:
                    yield tuple(text[end - size : end]), end

    def close(self) -> None:
        self._own.clear()
        self._others.clear()
