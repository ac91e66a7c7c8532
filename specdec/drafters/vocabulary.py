"""Which tokens two vocabularies share, found by their bytes.

A draft model with another tokenizer than the target's can draft every token that both have:
restricted to those and renormalised, its distribution is one over the target's vocabulary, and
rejection sampling is exact for whatever distribution the draft is drawn from. That is token-level
intersection (Timor et al. 2025, https://arxiv.org/abs/2502.05202). Ids mean nothing across
vocabularies, and the strings in a tokenizer's file depend on its kind: only bytes compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.tokenizer import Tokenizer
from specdec.records import percent
from specdec.sampling import FloatArray

MIN_SHARE = 0.1
"""Below this share of its tokens in common with the target, a draft is not worth running."""
_Key = tuple[bool, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyMap:
    """The tokens in common: `draft_ids[i]` and `target_ids[i]` [num_shared] stand for one token.

    `same_ids` says that the two are one vocabulary: every text token of either has the same id in
    the other, though one may be padded or have control tokens of its own. `num_texts` counts the
    draft's text tokens, `num_shared_texts` those of them that the target has too.
    """

    draft_ids: NDArray[np.int64]
    target_ids: NDArray[np.int64]
    same_ids: bool
    num_texts: int
    num_shared_texts: int

    @property
    def share(self) -> float:
        """The share of the draft's text tokens that the target has too."""
        return self.num_shared_texts / max(1, self.num_texts)

    def lift(self, draft_logits: FloatArray, target_size: int) -> FloatArray:
        """Return logits [target_size] over the target's vocabulary, −∞ where the draft has none.

        Softmax over them is the draft's distribution restricted to the shared tokens.
        """
        logits = np.full(target_size, -np.inf, draft_logits.dtype)
        known = (self.draft_ids < draft_logits.size) & (self.target_ids < target_size)
        logits[self.target_ids[known]] = draft_logits[self.draft_ids[known]]
        return logits

    def __str__(self) -> str:
        if self.same_ids:
            return "the same vocabulary"
        return f"{self.num_shared_texts:,} tokens in common, {percent(self.share)} of the draft's"


def match_vocabularies(draft: Tokenizer, target: Tokenizer) -> VocabularyMap:
    """Find the tokens that `draft` and `target` have in common.

    Raises:
        ModelError: too few of the draft's tokens are the target's as well.
    """
    if draft.vocabulary is target.vocabulary:
        return _whole(draft)
    by_draft, by_target = _ids_by_bytes(draft), _ids_by_bytes(target)
    shared = [key for key in by_draft if key in by_target]
    draft_ids = np.array([by_draft[key] for key in shared], np.int64)
    target_ids = np.array([by_target[key] for key in shared], np.int64)
    num_texts, num_target_texts, num_shared_texts = (
        sum(not is_control for is_control, _ in keys) for keys in (by_draft, by_target, shared)
    )
    one_vocabulary = num_texts == num_target_texts == num_shared_texts
    match = VocabularyMap(
        draft_ids,
        target_ids,
        one_vocabulary and np.array_equal(draft_ids, target_ids),
        num_texts,
        num_shared_texts,
    )
    if match.share < MIN_SHARE:
        raise ModelError(
            f"Draft and target share only {num_shared_texts:,} of the draft's {num_texts:,} "
            "tokens; choose a draft of another model family, or ngram."
        )
    return match


def _whole(tokenizer: Tokenizer) -> VocabularyMap:
    """Return what a vocabulary has in common with itself: all of it."""
    ids = np.flatnonzero([bool(data) for data in tokenizer.vocabulary.token_bytes])
    num_texts = len(ids) - len(tokenizer.vocabulary.controls)
    return VocabularyMap(ids, ids, True, num_texts, num_texts)


def single_bytes(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the id of every byte that is a token of its own."""
    ids = _ids_by_bytes(tokenizer)
    return {byte: ids[False, bytes([byte])] for byte in range(256) if (False, bytes([byte])) in ids}


def _ids_by_bytes(tokenizer: Tokenizer) -> dict[_Key, int]:
    """Return {(is a control token, bytes): id}; of several ids, the one the tokenizer uses."""
    ids: dict[_Key, int] = {}
    doubles: dict[_Key, list[int]] = {}
    for token_id in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token_id)
        key = (tokenizer.printed_bytes(token_id) != data, data)
        if data and ids.setdefault(key, token_id) != token_id:
            doubles.setdefault(key, [ids[key]]).append(token_id)
    for key, candidates in doubles.items():
        ids[key] = _preferred(candidates, key[1], tokenizer.encode)
    return ids


def _preferred(candidates: list[int], data: bytes, encode: Callable[[str], list[int]]) -> int:
    """Return the candidate that `encode` makes of the bytes, the first where it makes none.

    Sentencepiece vocabularies have "A" as a letter and as a byte, and write only the letter.
    """
    used = encode(data.decode("utf-8", "ignore"))
    return next((token_id for token_id in candidates if token_id in used), candidates[0])
