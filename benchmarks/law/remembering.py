"""A language model whose rows are computed once and remembered by the tokens before them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix  # of any sequences

import numpy as np
from numpy.typing import NDArray

from benchmarks.law.exact import Tokens
from specdec.acceptance import Draft
from specdec.models.base import Inside, LanguageModel
from specdec.models.context import CachedContext

REMEMBERED_ROWS = 15_000


class Paths:
    """A cache that holds, for each slot, all the tokens up to it."""

    def __init__(self) -> None:
        self.paths: list[Tokens] = []

    @property
    def length(self) -> int:
        return len(self.paths)

    def truncate(self, length: int) -> None:
        del self.paths[length:]

    def gather(self, start: int, slots: Sequence[int]) -> None:
        self.paths[start:] = [self.paths[slot] for slot in slots]


@dataclass(frozen=True)
class Row:
    """What stands behind a path: logits [vocab_size], and the hidden states that were asked for."""

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]


class Remembering:
    """A language model that computes what stands behind a path once, whatever run asks for it.

    Whoever rolls its caches back wrongly gets the logits of the wrong path, as with any model.
    """

    supports_trees = True
    batch_invariant = True

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._real = CachedContext(model)
        self._rows: OrderedDict[Tokens, Row] = OrderedDict()
        self._layers: tuple[int, ...] = ()
        self.name, self.backend = model.name, model.backend
        self.vocab_size, self.context_length = model.vocab_size, model.context_length

    def new_cache(self) -> Paths:
        return Paths()

    def cannot_give(self, layers: tuple[int, ...], attention: bool) -> str | None:
        return self._model.cannot_give(layers, attention)

    def without_middle_layers(self) -> Remembering:
        return Remembering(self._model.without_middle_layers())

    def prefill(
        self, token_ids: Sequence[int], cache: Paths, *, inside: Inside | None = None
    ) -> None:
        first = cache.length
        paths = self._walk(token_ids, cache, None)
        if inside is not None and inside.layers:
            inside.add(first, np.stack([row.hidden for row in self._rows_of(paths, inside)]))

    def _walk(
        self, token_ids: Sequence[int], cache: Paths, parents: Sequence[int] | None
    ) -> list[Tokens]:
        """Append the fed tokens' paths to the cache and return them."""
        if parents is None:
            parents = range(-1, len(token_ids) - 1)
        num_earlier = len(parents) - len(token_ids)
        committed = len(cache.paths) - num_earlier
        root = cache.paths[committed - 1] if committed else ()
        nodes = cache.paths[committed:]
        for token_id, parent in zip(token_ids, parents[num_earlier:], strict=True):
            nodes.append((*(root if parent < 0 else nodes[parent]), token_id))
        cache.paths[committed:] = nodes
        return nodes[num_earlier:]

    def forward(
        self,
        token_ids: Sequence[int],
        cache: Paths,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> NDArray[np.float32]:
        first = cache.length
        rows = self._rows_of(self._walk(token_ids, cache, parents), inside)
        if inside is not None and inside.layers:
            inside.add(first, np.stack([row.hidden for row in rows]))
        return np.stack([row.logits for row in rows])

    def _rows_of(self, paths: Sequence[Tokens], inside: Inside | None) -> list[Row]:
        layers = inside.layers if inside is not None else ()
        if layers and layers != self._layers:
            self._layers = layers
            self._rows.clear()
        if not all(path in self._rows for path in paths):
            self._compute(paths)
        for path in paths:
            self._rows.move_to_end(path)
        rows = [self._rows[path] for path in paths]
        while len(self._rows) > REMEMBERED_ROWS:
            self._rows.popitem(last=False)
        return rows

    def _compute(self, paths: Sequence[Tokens]) -> None:
        """Score the paths as one tree behind what they have in common."""
        shared = commonprefix(paths)  # noqa: RUF071  (tuples of tokens, no file paths)
        context = shared[: min(map(len, paths)) - 1] or shared[:1]
        nodes: dict[Tokens, int] = {context: -1}
        ids: list[int] = []
        parents: list[int] = []
        for path in paths:
            for end in range(len(context) + 1, len(path) + 1):
                if path[:end] not in nodes:
                    parents.append(nodes[path[: end - 1]])
                    nodes[path[:end]] = len(ids)
                    ids.append(path[end - 1])
        draft = Draft(tuple(ids), tuple(parents), (None,) * len(ids))
        inside = Inside(self._layers)
        logits = self._real.score(list(context), draft, inside)
        hidden = inside.hidden[-len(logits) :] if self._layers else np.empty((len(logits), 0))
        for path, node in nodes.items():
            self._rows[path] = Row(logits[node + 1].copy(), hidden[node + 1].copy())

    def row(self, path: Tokens) -> NDArray[np.float32]:
        """Return the logits [vocab_size] after a path."""
        return self._rows_of([path], None)[0].logits
