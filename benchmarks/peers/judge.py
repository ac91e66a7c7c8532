"""Whose text is it: how probable the target finds what a contestant drew.

Above temperature 0 texts cannot be compared token by token. But whoever draws from the target's
own distribution writes, on average, tokens that it finds as probable as those it writes itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.models.base import MAX_FORWARD_ROWS, LanguageModel


def mean_logprob(
    model: LanguageModel, prompt: Sequence[int], token_ids: Sequence[int], temperature: float
) -> float:
    """Return the mean over `token_ids` of ln p(token | all before it), p being the target's law.

    Args:
        model: the target.
        prompt: what came before the tokens, at least one id.
        token_ids: what was written, at least one id.
        temperature: of p, above 0.
    """
    cache = model.new_cache()
    model.prefill(prompt[:-1], cache)
    read = [prompt[-1], *token_ids[:-1]]
    parts = range(0, len(read), MAX_FORWARD_ROWS)
    scored = [model.forward(read[start : start + MAX_FORWARD_ROWS], cache) for start in parts]
    logits = np.concatenate(scored) / temperature
    of_tokens = logits[np.arange(len(token_ids)), token_ids]
    return float(np.mean(of_tokens - np.logaddexp.reduce(logits.astype(np.float64), axis=1)))
