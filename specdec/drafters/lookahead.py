"""Lookahead decoding: the target's own guesses, refined in parallel, draft for it.

Fu et al. 2024 (https://arxiv.org/abs/2402.02057). Decoding a whole stretch at once is a fixed-point
problem: guess the next W tokens, ask the target what it would write after each, put that in their
place, and repeat (Jacobi iteration). The guesses seldom come true where they stand, but the paths
through N − 1 iterations, each token the target's answer to those before it, are n-grams that the
target is likely to write somewhere soon. They go into a pool by their first token; whenever that
token is written, up to G of them are drafted. No draft model, no training.

The window and the candidates of the pool are one tree, and one call of the target scores both:

    context ─ g₁ ─ g₂ ─ … ─ g_W        the oldest iteration, a chain
               │    │         │
               a₁   a₂   …   a_W       the target's answer after each g, and so on, N − 1 levels

so that a token sees the context, the chain up to its column, and its column: the mask of the paper,
which is the mask of a tree. What the target says after the lowest token of each column is the next
iteration. Every node is a point mass, a function of what was written and answered before, so the
output keeps its law (algorithms: deterministic candidates); a guess of the window that happens to
be right is accepted like any other. At temperature 0 the path accepted is the longest that agrees.

Each round costs W·(N − 1) rows of the target besides the candidates'. A graphics card has them to
spare; on a processor they are most of the time, and this is instructive rather than fast.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft, Verdict
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES, Budget
from specdec.sampling import Distribution, Sampler

POOL, WINDOW = "pool", "window"
"""Whose token it is, as a round records it: a candidate from the pool, or a guess of the window."""

Ngram = tuple[int, ...]


class LookaheadDrafter(Drafter):
    """Draft n-grams of the target's own Jacobi iterations, and iterate once more in each round."""

    name = "lookahead"

    def __init__(self, window: int = 5, ngram: int = 3, candidates: int = 5) -> None:
        """Set W, N and G.

        Args:
            window: tokens that are guessed at once, W; fewer where a draft may not be so deep.
            ngram: tokens of an n-gram, N, its first one included; 2 or more.
            candidates: the most n-grams kept and drafted for one first token, G.

        Raises:
            SettingsError: one is out of its range, or the tree would be too large.
        """
        largest = (window + candidates) * (ngram - 1)
        if window < 1 or ngram < 2 or candidates < 1 or largest > MAX_NODES:
            raise SettingsError(
                "Lookahead needs a window of 1 or more, n-grams of 2 or more tokens, 1 or more "
                f"candidates, and (window + candidates) × (n − 1) of at most {MAX_NODES}, not "
                f"{window}, {ngram} and {candidates}."
            )
        self.window = window
        self.ngram = ngram
        self.candidates = candidates

    def start(self, prompt: Sequence[int]) -> LookaheadRun:
        return LookaheadRun(self, prompt)


class LookaheadRun(DrafterRun):
    """The iterations and the pool of one run.

    `levels[j][i]` is column i of the j-th oldest iteration that is still in the window.
    """

    def __init__(self, drafter: LookaheadDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._levels: list[list[int]] = []
        self._lowest: list[int] = []  # by column, the node below which the next iteration is read
        self._pool: defaultdict[int, OrderedDict[Ngram, None]] = defaultdict(OrderedDict)
        if prompt:  # any guess will do to begin with; the prompt's words may well come again
            last = [*prompt][-drafter.window :]
            self._levels = [[last[i % len(last)] for i in range(drafter.window)]]

    @property
    def pool(self) -> dict[int, list[Ngram]]:
        """Return what may follow each token, the latest first."""
        return {token_id: list(reversed(after)) for token_id, after in self._pool.items()}

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        """Draft the pool's candidates after the last token, and the window.

        Both keep to the depth that is allowed; their number is the drafter's own affair.
        """
        tree = _Tree(budget.depth)
        after = self._pool[context[-1]] if context and context[-1] in self._pool else ()
        for candidate in reversed(after):
            tree.add(-1, candidate, POOL)
        self._lowest = []
        chain = -1
        width = min(self._drafter.window, budget.depth - len(self._levels) + 1)
        for column in zip(*(level[: max(0, width)] for level in self._levels), strict=True):
            chain = tree.add(chain, column[:1], WINDOW)
            self._lowest.append(tree.add(chain, column[1:], WINDOW))
        return tree.draft()

    def observe(self, draft: Draft, rows: Sequence[Distribution | None], verdict: Verdict) -> None:
        """Read the next iteration off the target's answers.

        In a group the draft may have been cut short, and a server may score less than was asked
        for; a column without an answer keeps its last guess and makes no n-gram.
        """
        if not self._lowest:
            return
        newest = list(self._levels[-1])
        is_full = len(self._levels) == self._drafter.ngram - 1
        for column, node in enumerate(self._lowest):
            row = rows[node + 1] if node < len(draft) else None
            if row is None:
                continue
            newest[column] = int(row.probs.argmax())
            if is_full:
                first, *others = (level[column] for level in self._levels)
                self._keep(first, (*others, newest[column]))
        self._levels = [*self._levels[is_full:], newest]

    def _keep(self, first: int, after: Ngram) -> None:
        """Put an n-gram into the pool as its latest; the oldest one makes room."""
        known = self._pool[first]
        known.pop(after, None)
        known[after] = None
        if len(known) > self._drafter.candidates:
            known.popitem(last=False)

    def close(self) -> None:
        self._pool.clear()


class _Tree:
    """A tree of tokens in which equal siblings are one node."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._places: dict[tuple[int, int], int] = {}
        self._depths: list[int] = []
        self._drafted_by: list[str] = []

    def add(self, parent: int, tokens: Sequence[int], who: str) -> int:
        """Add a path below `parent`, as far as it may go, and return its last node."""
        for token_id in tokens:
            depth = self._depths[parent] + 1 if parent >= 0 else 1
            if depth > self._depth:
                break
            place = self._places.setdefault((parent, token_id), len(self._depths))
            if place == len(self._depths):
                self._depths.append(depth)
                self._drafted_by.append(who)
            parent = place
        return parent

    def draft(self) -> Draft:
        parents, token_ids = zip(*self._places, strict=True) if self._places else ((), ())
        return Draft(
            token_ids, parents, (None,) * len(token_ids), drafted_by=tuple(self._drafted_by)
        )
