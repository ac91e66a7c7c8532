"""Hugging Face's schedule: two more tokens after a draft that was accepted whole, else one fewer.

The "heuristic" schedule of assisted generation in `transformers` (Gante 2023,
https://huggingface.co/blog/assisted-generation). It knows nothing of what a round costs: where
drafting is dear it goes on for as long as all is accepted, and it never gives up drafting.
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.policies.base import MAX_DEPTH, Budget
from specdec.records import RoundResult

RISE = 2
"""Tokens more after a draft that was accepted whole."""
FALL = 1
"""Tokens fewer after any other."""


class HuggingFacePolicy:
    """Start with K as it is set, then rise and fall between 1 and `MAX_DEPTH` tokens."""

    name = "hf"

    def start(self) -> HuggingFaceRun:
        return HuggingFaceRun()


class HuggingFaceRun:
    """K of the last round that this policy decided."""

    def __init__(self) -> None:
        self._k = 0

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        if not self._k:
            self._k = max(1, min(num_draft_tokens, MAX_DEPTH))
            return Budget.chain(self._k)
        last, before = rounds[-1], self._k
        if not last.candidates or last.policy != HuggingFacePolicy.name:
            return Budget.chain(before)  # nothing of this policy's was tested
        if last.num_accepted == last.depth:
            self._k = min(before + RISE, MAX_DEPTH)
        else:
            self._k = max(before - FALL, 1)
        moved = f"K {before} → {self._k}: {last.num_accepted} of {last.depth} were accepted."
        return Budget.chain(self._k, reason=moved if self._k != before else "")
