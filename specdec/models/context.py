"""A model's KV cache kept in step with a growing token sequence and the draft after it.

The one place where caches are rolled back. Whoever owns a `CachedContext` only ever says which
tokens the sequence now has and which tree follows; what is cached already is kept (of a tree, the
path that became output, or the nodes that a larger one begins with), what is wrong is dropped,
what is missing is fed. The rule that a draft model must be fed `[last_draft, bonus]` after a fully
accepted draft follows from it and needs no code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft
from specdec.errors import ModelError
from specdec.models.base import MAX_FORWARD_ROWS, Inside, LanguageModel, Logits


class CachedContext:
    """The cache of one run over one model.

    With `one_row`, what is scored is fed token by token, trees path by path: a logit is then
    computed from the same shapes as in plain decoding, also where batches round otherwise.
    """

    def __init__(self, model: LanguageModel, *, one_row: bool = False) -> None:
        self.model = model
        self._most_rows = 1 if one_row else MAX_FORWARD_ROWS
        self._trees_in_one = model.supports_trees and not one_row
        self.cache = model.new_cache()
        self._cached: list[int] = []  # the committed tokens whose slots are filled
        self._tree = Draft()  # the nodes in the slots after them
        # What followed the last of them and each node, while they are as they were fed: logits
        # [1 + len(tree), vocab_size] or none, and their inner states.
        self._rows = self._no_rows()
        self._inside = Inside()

    def prefill(self, context: Sequence[int], inside: Inside | None = None) -> None:
        """Bring every token of `context` but the last into the cache.

        `inside` is filled anew, with a row for each token that was not there yet: those from
        position `inside.first` to the last but one.

        Raises:
            ModelError: the model cannot give what `inside` asks for.
        """
        self._sync(context, inside)
        self._prefill(context)
        self._tell(inside)

    def forget(self, length: int) -> None:
        """Forget whatever was fed after the first `length` tokens, and any draft."""
        self._cached = self._cached[:length]
        self.cache.truncate(len(self._cached))
        self._tree, self._rows, self._inside = Draft(), self._no_rows(), Inside()

    def score(
        self, context: Sequence[int], draft: Draft | None = None, inside: Inside | None = None
    ) -> Logits:
        """Return the logits after `context` (row 0) and after each node of `draft` (row i + 1).

        Only what is not cached yet goes through the model: usually the last token of `context`
        and the draft, in one forward. Where `context` is that of the last call and `draft` begins
        with the nodes of its draft, those are not fed again, so that a tree can be grown and
        scored level by level at the price of being scored once.

        Args:
            context: the committed tokens.
            draft: a tree of any size after them.
            inside: filled anew, with a row for each token of `context` from position
                `inside.first` on (the last one at least) and then for each node. Tokens before
                were fed in earlier calls. What it asks for should stay the same from call to
                call: with another question the draft is fed again.

        Raises:
            ModelError: the model cannot give what `inside` asks for.
        """
        draft = draft or Draft()
        by_paths = self._goes_by_paths(draft)
        tree = Draft() if by_paths else draft
        if self._answers(context, inside):
            self._keep_nodes(tree)
        else:
            self._sync(context, inside)
            if len(context) - len(self._cached) + len(tree) > MAX_FORWARD_ROWS:
                self._prefill(context)
        self._feed(list(context[len(self._cached) :]), tree)
        rows = self._rows_of_paths(draft) if by_paths else self._rows
        self._tell(inside)
        return rows

    def num_sequences(self, draft: Draft) -> int:
        """Return how many sequences `draft` is scored as: its paths where no tree goes through."""
        return len(draft.leaves) if self._goes_by_paths(draft) else 1

    def _goes_by_paths(self, draft: Draft) -> bool:
        return not (draft.is_chain or self._trees_in_one)

    def _answers(self, context: Sequence[int], inside: Inside | None) -> bool:
        """Say whether the kept rows are those after `context`, with what `inside` asks for."""
        asked = inside or Inside()
        return (
            len(self._rows) > 0
            and (asked.layers, asked.attention) == (self._inside.layers, self._inside.attention)
            and self._cached == list(context)
        )

    def _keep_nodes(self, draft: Draft) -> None:
        """Keep the nodes that `draft` and the last tree begin with."""
        committed = len(self._cached)
        kept = _common_prefix(_nodes(self._tree), _nodes(draft))
        self.cache.truncate(committed + kept)
        self._tree = _beginning(draft, kept)
        self._rows = self._rows[: 1 + kept]
        self._inside = self._inside.part(committed - 1, committed + kept)

    def _prefill(self, context: Sequence[int]) -> None:
        missing = list(context[len(self._cached) : len(context) - 1])
        if missing:
            self.model.prefill(missing, self.cache, inside=self._inside)
            self._cached += missing

    def _feed(self, missing: list[int], draft: Draft) -> None:
        """Feed `missing` and the nodes of `draft` beyond those kept, and keep the rows."""
        parents = None
        if not draft.is_chain:
            chain = range(-1, len(missing) - 1)
            parents = [*chain, *(len(missing) + parent for parent in draft.parents)]
        token_ids = [*missing, *draft.token_ids]
        rows = self._forward(token_ids, len(self._tree), parents, self._inside)
        if missing:
            self._rows = rows[len(missing) - 1 :]
            self._cached += missing
        elif len(rows):
            self._rows = np.concatenate([self._rows, rows])
        self._tree = _beginning(draft, len(draft))

    def _rows_of_paths(self, draft: Draft) -> Logits:
        """Score a tree one root-to-leaf path at a time: the same rows at a higher price."""
        if self._inside.layers or self._inside.attention:
            raise ModelError(f"{self.model.name} shows its inner states for chains only, no trees.")
        rows = np.empty((1 + len(draft), self.model.vocab_size), np.float32)
        rows[0] = self._rows[0]
        for leaf in draft.leaves:
            path = draft.path_to(leaf)
            rows[[node + 1 for node in path]] = self._forward(draft.tokens_to(leaf))
            self.cache.truncate(len(self._cached))
        return rows

    def _forward(
        self,
        token_ids: Sequence[int],
        num_fed: int = 0,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed `token_ids` after the first `num_fed`, which are cached, and return their logits."""
        parts = []
        for start in range(num_fed, len(token_ids), self._most_rows):
            end = min(start + self._most_rows, len(token_ids))
            above = None if parents is None else parents[:end]
            fed = token_ids[start:end]
            parts.append(self.model.forward(fed, self.cache, parents=above, inside=inside))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self._no_rows()

    def _no_rows(self) -> Logits:
        return np.empty((0, self.model.vocab_size), np.float32)

    def _tell(self, inside: Inside | None) -> None:
        """Hand over what was seen inside."""
        if inside is not None:
            inside.first, inside.hidden = self._inside.first, self._inside.hidden
            inside.attention_weights = list(self._inside.attention_weights)

    def _sync(self, context: Sequence[int], inside: Inside | None) -> None:
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
        self._rows = self._no_rows()
        self._inside = Inside(inside.layers, inside.attention) if inside else Inside()
        self._inside.first = len(self._cached)

    def _tree_path(self, tokens: Sequence[int]) -> tuple[int, ...]:
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
        return self._tree.path_to(ends[0])


def _nodes(draft: Draft) -> list[tuple[int, int]]:
    return list(zip(draft.token_ids, draft.parents, strict=True))


def _beginning(draft: Draft, num_nodes: int) -> Draft:
    """Return the shape of the first nodes, without what they were drawn from."""
    return Draft(draft.token_ids[:num_nodes], draft.parents[:num_nodes], (None,) * num_nodes)


def _common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
