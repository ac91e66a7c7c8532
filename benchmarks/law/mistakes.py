"""Three classic mistakes, to be made on purpose: a test of the law must find them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from specdec.acceptance import Draft, Verdict, verify
from specdec.drafters.base import Drafter, DrafterRun
from specdec.records import TokenStatus
from specdec.sampling import sample


class Mistaken(Drafter, DrafterRun):
    """A drafter whose drafts another one makes, and `spoil` falsifies."""

    def __init__(self, inner: Drafter, spoil: Callable[[Draft], Draft]) -> None:
        self._inner, self._spoil = inner, spoil

    @property
    def name(self) -> str:
        return self._inner.name

    def start(self, prompt: Sequence[int]) -> DrafterRun:
        run = Mistaken(self._inner, self._spoil)
        run._run = self._inner.start(prompt)
        return run

    def propose(self, context, budget, sampler, rng, hidden=None) -> Draft:
        return self._spoil(self._run.propose(context, budget, sampler, rng, hidden))


def as_argmax(draft: Draft) -> Draft:
    """Take the likeliest token in place of the first one drawn, and still claim it was drawn."""
    first = draft.distributions[:1]
    return Draft.chain([int(one.probs.argmax()) for one in first if one is not None], first)


def without_unsure(draft: Draft) -> Draft:
    """Drop drawn tokens, from the first on, that the draft itself found unlikely."""
    kept = itertools.takewhile(
        lambda node: draft.distributions[node].probs[draft.token_ids[node]] > 0.3, range(len(draft))
    )
    count = len(list(kept))
    return Draft.chain(draft.token_ids[:count], draft.distributions[:count])


def resampling_from_p(draft, target_probs, rng) -> Verdict:
    """Verify, but draw from the target after a rejection, and not from the residual."""
    verdict = verify(draft, target_probs, rng)
    if verdict.final_status is not TokenStatus.RESAMPLED:
        return verdict
    row = target_probs[(verdict.path[-1] if verdict.path else -1) + 1]
    return replace(verdict, final_token=sample(row, rng))


MISTAKES = {"argmax": as_argmax, "discard": without_unsure, "resample": None}
