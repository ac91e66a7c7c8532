"""A tree of candidates that grows below a context, scored no further than it is looked into."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from specdec.acceptance import Draft
from specdec.drafters.context import DraftContext
from specdec.sampling import Distribution, Sampler

Candidate = tuple[int, Distribution | None]
"""A token id and the law it was drawn from, given its elder siblings; None where it was chosen."""


class GrowingTree:
    """Candidates, numbered as they are added; −1 is the context.

    The model is fed those nodes only below which something may be added, each of them once, and
    in one forward for all that are asked about together. (A model that takes no trees is fed the
    paths to them anew at every call: the same laws at a higher price.)
    """

    def __init__(self, context: DraftContext, own: Sequence[int]) -> None:
        """Grow after `own`: the text as the draft model reads it."""
        self._context = context
        self._own = own
        self._token_ids: list[int] = []
        self._parents: list[int] = []
        self._drawn_from: list[Distribution | None] = []
        self._fed: list[int] = []
        self._place = {-1: -1}  # of a node among those fed
        self.forward_s = 0.0

    def __len__(self) -> int:
        return len(self._token_ids)

    def add(self, parent: int, candidates: Iterable[Candidate]) -> range:
        """Put siblings below `parent`, in the order of their tests; return their numbers."""
        first = len(self)
        for token_id, drawn_from in candidates:
            self._token_ids.append(token_id)
            self._parents.append(parent)
            self._drawn_from.append(drawn_from)
        return range(first, len(self))

    def after(self, nodes: Sequence[int], sampler: Sampler) -> list[Distribution | None]:
        """Return the law of the next token after each of `nodes`, whose parents were asked before.

        None where the draft model could say nothing that the target knows.
        """
        if not nodes:
            return []
        for node in nodes:
            if node not in self._place:
                self._place[node] = len(self._fed)
                self._fed.append(node)
        began_s = time.perf_counter()
        rows = self._context.score(self._own, self._fed_tree())
        self.forward_s += time.perf_counter() - began_s
        return [self._context.distribution(rows[self._place[n] + 1], sampler) for n in nodes]

    def _fed_tree(self) -> Draft:
        """Return the nodes that are fed, in the draft model's own tokens."""
        own_ids = tuple(self._context.own_id(self._token_ids[node]) for node in self._fed)
        parents = tuple(self._place[self._parents[node]] for node in self._fed)
        return Draft(own_ids, parents, (None,) * len(own_ids))

    def draft(self, nodes: Sequence[int], sample_s: float) -> Draft:
        """Return those `nodes`, ascending and none without its parent, as a draft."""
        place = {-1: -1} | {node: index for index, node in enumerate(nodes)}
        return Draft(
            tuple(self._token_ids[node] for node in nodes),
            tuple(place[self._parents[node]] for node in nodes),
            tuple(self._drawn_from[node] for node in nodes),
            sample_s,
        )
