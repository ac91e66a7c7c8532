"""Suffix decoding: whatever followed the end of the text before, weighed by how often it did.

SuffixDecoding, Oliaro et al. 2024 (https://arxiv.org/abs/2411.04975), with one index, over prompt
and output of the run; the paper's second one, over earlier requests, would make a run depend on
those before it. Where prompt lookup copies K tokens from one place, this counts all places:

- A drafted node scores the product of the relative frequencies along its path, an estimate of the
  chance that it is accepted. Nodes are added by descending score.
- A match of p tokens earns at most α · p nodes: a long match is good evidence, a short one is often
  a coincidence.
- Of the suffixes that occurred before, the longest decides, unless the draft after a shorter one
  has a higher sum of scores (the expected number of accepted tokens). That is so where the evidence
  runs out: in a text of period two, the longest suffix stood two tokens before the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile
from typing import NamedTuple

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.sampling import Sampler


class SuffixDrafter(Drafter):
    """Propose the most frequent continuations of the end of the text, as far as they are likely."""

    name = "suffix"

    def __init__(
        self,
        alpha: float = 1.0,
        min_score: float = 0.1,
        max_depth: int = 24,
        window: int = 8192,
    ) -> None:
        """Set what counts as evidence; the first three defaults are vLLM's, for the authors' code.

        Args:
            alpha: drafted tokens per token of the match.
            min_score: no node is drafted that scores less; from 0 to 1.
            max_depth: tokens; what follows a longer sequence is not counted, but taken from the
                most recent place where it began. Matches are shorter.
            window: tokens; the index knows at least so many of the last ones, and fewer than twice
                as many.

        Raises:
            SettingsError: one of them is out of its range.
        """
        if not (alpha > 0.0 and 0.0 <= min_score <= 1.0 and max_depth >= 2 and window >= 1):
            raise SettingsError(
                "Suffix decoding needs alpha > 0, 0 ≤ min_score ≤ 1, max_depth ≥ 2 and window ≥ 1, "
                f"not {alpha:g}, {min_score:g}, {max_depth} and {window}."
            )
        self.alpha = alpha
        self.min_score = min_score
        self.max_depth = max_depth
        self.window = window

    def start(self, prompt: Sequence[int]) -> SuffixRun:
        return SuffixRun(self, prompt)


class SuffixRun(DrafterRun):
    """The index of one run; what it proposes follows from the context alone."""

    def __init__(self, drafter: SuffixDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._index = SuffixIndex(drafter.max_depth)
        self._first = 0  # the index begins with this token of the context
        self._read(prompt)

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        """Draft a chain where `budget` has no more nodes than depth, otherwise a tree.

        After a b x a b y a b two tokens match, so there are two nodes: in a chain y and a, in a
        tree y and x, as all three score 1/2.
        """
        self._read(context)
        drafter, suffixes = self._drafter, self._index.suffixes
        is_tree = budget.num_nodes > budget.depth
        best: list[Continuation] = []
        best_score = 0.0
        for length in range(len(suffixes) - 1, 0, -1):
            size = min(budget.num_nodes, int(drafter.alpha * length))
            if size <= best_score:  # no node scores above 1, and a shorter match earns no more
                break
            found = self._index.continuations(suffixes[length], budget.depth, is_tree)
            nodes = list(takewhile(lambda n: n.score >= drafter.min_score, islice(found, size)))
            score = sum(node.score for node in nodes)
            if score > best_score:
                best, best_score = nodes, score
        return Draft(
            tuple(node.token_id for node in best),
            tuple(node.parent for node in best),
            (None,) * len(best),
        )

    def _read(self, context: Sequence[int]) -> None:
        """Bring the index up to the end of `context`, beginning anew if that is another text.

        It also begins anew once in `window` tokens, at a position that follows from the length of
        the context, so that memory is bounded and equal contexts are known equally.
        """
        first = max(0, len(context) // self._drafter.window - 1) * self._drafter.window
        known = self._index.tokens
        if first != self._first or list(context[first : first + len(known)]) != known:
            self._index = SuffixIndex(self._drafter.max_depth)
            self._first = first
        for token_id in context[first + len(self._index.tokens) :]:
            self._index.append(token_id)

    def close(self) -> None:
        self._index = SuffixIndex(self._drafter.max_depth)


@dataclass(slots=True, eq=False)
class Sequel:
    """A sequence of tokens that occurs in the text, as a node of the trie of all of them.

    It ended last before position `end` and occurs `count` times. `followers` are by token; None
    where they are not counted, because it occurs only once or is as long as is counted.
    """

    end: int
    count: int = 1
    followers: dict[int, Sequel] | None = None


class Continuation(NamedTuple):
    """A node of a draft: its token, the place of its parent in the draft (−1: none), its score."""

    token_id: int
    parent: int
    score: float


class SuffixIndex:
    """How often every sequence of up to `max_depth` tokens occurs in a growing text.

    A trie with counts. What occurs only once needs no nodes below it, for the text itself says how
    it goes on. An appended token costs one step down the trie, and at most one new node, for each
    suffix that occurred before, so at most `max_depth` of either. A node takes about 200 bytes:
    8,000 tokens of code make 3 MB, 4,000 that are said twice 25 MB.

    `suffixes[d]` is the node of the last d tokens, up to the longest that occurred before and is
    shorter than `max_depth`.
    """

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth
        self.tokens: list[int] = []
        self._root = Sequel(0, followers={})
        self.suffixes = [self._root]

    def append(self, token_id: int) -> None:
        """Count the sequences that end with one more token."""
        self.tokens.append(token_id)
        end = len(self.tokens)
        suffixes = [self._root]
        for length, suffix in enumerate(self.suffixes, 1):
            followers = self.followers(suffix)
            longer = followers.get(token_id)
            if longer is None:
                followers[token_id] = Sequel(end)
                continue
            if length < self.max_depth:
                longer.followers = self.followers(longer)
                suffixes.append(longer)
            longer.end = end
            longer.count += 1
        self.suffixes = suffixes

    def followers(self, node: Sequel) -> dict[int, Sequel]:
        """Return what followed `node`, by token; where that was not counted, what did last."""
        if node.followers is not None:
            return node.followers
        end = node.end
        return {self.tokens[end]: Sequel(end + 1)} if end < len(self.tokens) else {}

    def continuations(self, match: Sequel, depth: int, is_tree: bool) -> Iterator[Continuation]:
        """Yield what followed `match`, up to `depth` tokens deep, by descending score.

        Of equal scores the shallower node comes first, then the one that ended last; two nodes of
        one depth never end at one place. A chain goes on with the most frequent follower only.
        """
        queue = [(-1.0, 0, 0, match, -1)]
        for place in count(-1):  # `match` takes the place of the context
            if not queue:
                return
            minus_score, level, _, node, parent = heapq.heappop(queue)
            if place >= 0:
                yield Continuation(self.tokens[node.end - 1], parent, -minus_score)
            if level == depth:
                continue
            followers = list(self.followers(node).values())
            total = sum(follower.count for follower in followers)
            if followers and not is_tree:
                followers = [max(followers, key=lambda f: (f.count, f.end))]
            for follower in followers:
                share = minus_score * follower.count / total
                heapq.heappush(queue, (share, level + 1, -follower.end, follower, place))
