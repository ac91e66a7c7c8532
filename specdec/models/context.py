"""A model's KV cache kept in step with a growing token sequence.

The one place where caches are rolled back. Whoever owns a `CachedContext` only ever says which
tokens the sequence now has; what is cached already is kept (of a tree, the path that became
output), what is wrong is dropped, what is missing is fed. The rule that a draft model must be fed
`[last_draft, bonus]` after a fully accepted draft follows from it and needs no code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.models.base import LanguageModel, Logits

MAX_DECODE_ROWS = 64
"""The most tokens one decoding forward takes; a longer gap is prefilled."""


class CachedContext:
    """The cache of one run over one model."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.cache = model.new_cache()
        self._cached: list[int] = []  # the committed tokens whose slots are filled
        self._tree = Draft()  # what was fed after them

    def prefill(self, context: Sequence[int]) -> None:
        """Bring every token of `context` but the last into the cache."""
        self._sync(context)
        missing = list(context[len(self._cached) : len(context) - 1])
        if missing:
            self.model.prefill(missing, self.cache)
            self._cached += missing

    def score(self, context: Sequence[int], draft: Draft | None = None) -> Logits:
        """Return the logits after `context` (row 0) and after each node of `draft` (row i + 1).

        The tokens of `context` that are not cached yet and the draft go through the model in one
        forward, whose shape is [1 + num_draft_tokens, vocab_size] in the usual case.
        """
        draft = draft or Draft()
        self._sync(context)
        if len(context) - len(self._cached) + len(draft) > MAX_DECODE_ROWS:
            self.prefill(context)
        missing = list(context[len(self._cached) :])
        if draft.is_chain or self.model.supports_trees:
            logits = self._feed(missing, draft)
        else:
            logits = self._feed_paths(missing, draft)
        return logits

    def _feed(self, missing: list[int], draft: Draft) -> Logits:
        parents = None
        if not draft.is_chain:
            chain = range(-1, len(missing) - 1)
            parents = [*chain, *(len(missing) + parent for parent in draft.parents)]
        logits = self.model.forward([*missing, *draft.token_ids], self.cache, parents=parents)
        self._cached += missing
        self._tree = draft
        return logits[len(missing) - 1 :]

    def _feed_paths(self, missing: list[int], draft: Draft) -> Logits:
        """Score a tree one root-to-leaf path at a time: the same rows at a higher price."""
        rows = np.empty((1 + len(draft), self.model.vocab_size), np.float32)
        rows[0] = self.model.forward(missing, self.cache)[-1]
        self._cached += missing
        for leaf in set(range(len(draft))) - set(draft.parents):
            path = [leaf]
            while draft.parents[path[0]] >= 0:
                path.insert(0, draft.parents[path[0]])
            self.cache.truncate(len(self._cached))
            rows[[node + 1 for node in path]] = self.model.forward(
                [draft.token_ids[node] for node in path], self.cache
            )
        self.cache.truncate(len(self._cached))
        return rows

    def _sync(self, context: Sequence[int]) -> None:
        """Keep what the cache shares with `context`, leaving at least its last token to feed."""
        committed = len(self._cached)
        if self._cached != context[:committed]:
            committed = _common_prefix(self._cached, context)
            self._tree = Draft()
        kept = self._tree_path(context[committed:-1])
        committed = min(committed, len(context) - 1)
        self.cache.gather(committed, [len(self._cached) + node for node in kept])
        self._cached = list(context[: committed + len(kept)])
        self._tree = Draft()

    def _tree_path(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes of the last tree along its longest path that begins `tokens`."""
        children = self._tree.children()
        ends = [-1]  # equal siblings are possible, so that several paths may read alike
        for token_id in tokens:
            further = [
                child
                for end in ends
                for child in children[end + 1]
                if self._tree.token_ids[child] == token_id
            ]
            if not further:
                break
            ends = further
        path: list[int] = []
        node = ends[0]
        while node >= 0:
            path.insert(0, node)
            node = self._tree.parents[node]
        return path


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
