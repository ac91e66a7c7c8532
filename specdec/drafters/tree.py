"""A language model drafts a tree: several candidates for a position, so that one may be accepted.

A tree of a *fixed shape* ("3-2-1", see `shapes.py`) has its tokens drawn. Siblings are drawn
without replacement, each from what its elders left of the draft's distribution: the law a
candidate has given that they were rejected, and the one it is tested against (Jeon et al. 2024,
https://arxiv.org/abs/2402.14160; the joint law is that of Gumbel-top-m). Where nothing is left
(at temperature 0 after the first, or after all that top-k or top-p let through) the likeliest
other tokens are *chosen*, as point masses.

Drawn and chosen siblings together keep the law of the target. Let c be what the target wants of the
rest when a candidate is tested, and q the law of that candidate given all that was decided before:
the siblings before it and their tests. One test emits x with probability min(c, q)(x) and otherwise
passes on the residual of max(0, c − q), and min(c, q) + max(0, c − q) = c; so by induction over the
siblings, last one first, a node emits c. A drawn candidate has q = what is left of the draft's
distribution, for it knows of its elders only their tokens. A chosen one is a function of these and
of the draft's logits: given them its law is a point mass, which is its q. Nothing else was used.

The tree *auto* follows the draft where it is sure (EAGLE-2, Li et al. 2024,
https://arxiv.org/abs/2406.16858): level by level, it looks below the likeliest paths, and of all
tokens seen it keeps those whose paths are likeliest. Were its tokens drawn, keeping one for its own
probability would make its law another than the q it is tested against, and bias the output
(algorithms: dropping a sampled draft because of its own probability). So they are chosen: the tree
is a function of the context, each token a point mass, and the proof above holds with no draw in it.
The chance that one of a node's children is accepted is then the target's probability of them
together.

The tree *best* is the fixed shape that promises most tokens per second (Sequoia, Chen et al. 2024,
https://arxiv.org/abs/2402.12374), planned from how often each rank of siblings is accepted and what
levels and rows cost, both measured in the rounds before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from specdec.acceptance import Draft, Verdict
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.drafters.context import DraftContext, OpenContext
from specdec.drafters.growing import Candidate, GrowingTree
from specdec.drafters.ranks import RankAcceptance
from specdec.drafters.shapes import MAX_CHILDREN, Shape, best_shape, children_of, parse_shape
from specdec.models.base import LanguageModel
from specdec.policies.base import MAX_NODES, Budget, Stop, never
from specdec.sampling import Distribution, Sampler, sample
from specdec.targets.base import LOGITS_ONLY, Wanted

AUTO, BEST = "auto", "best"
CHAIN_OF_ONE: Shape = (-1,)
_NUM_EXPANDED = 4
"""How many paths of a level "auto" looks below: each costs a row of the draft's forward."""
_NUM_TRIED = 2
"""Rounds before anything is planned: the first drafts all levels, the second one half of them."""
_PLANNED = (6, 12, 24)
"""The most nodes of a shape that "best" considers, the next one only if all of them were used."""
_OWN_LAW = Sampler(1.0)
"""Says how sure the model is, whatever the target is sampled with; at temperature 0 as well."""


class TreeDrafter(Drafter):
    """Draft a tree of a fixed shape, or one that follows the draft where it is sure.

    A shape is the drafter's own setting, so of a budget it heeds the depth and is cut there; how
    many tokens stand beside each other is its own affair, up to `MAX_NODES` in all. "auto" has no
    size of its own and keeps to both bounds.
    """

    def __init__(
        self,
        model: LanguageModel,
        shape: str,
        name: str | None = None,
        open_context: OpenContext | None = None,
        wants: Wanted = LOGITS_ONLY,
    ) -> None:
        """Prefer `make_model_drafter` where the vocabularies may differ.

        Args:
            model: the draft model.
            shape: "auto", "best", or a fixed shape as `shapes.py` writes it, such as "3-2-1".
            name: the model's by default.
            open_context: that of a chain drafter of the model, where the model's vocabulary is
                not the target's.
            wants: what the model needs of the target.

        Raises:
            SettingsError: there is no such shape.
        """
        self.model = model
        self.shape = None if shape in (AUTO, BEST) else parse_shape(shape)
        self._is_best = shape == BEST
        self._name = name or model.name
        self._tree = shape
        self._open_context = open_context
        self._wants = wants

    @property
    def name(self) -> str:
        return self._name

    @property
    def tree(self) -> str:
        return self._tree

    @property
    def wants(self) -> Wanted:
        return self._wants

    def start(self, prompt: Sequence[int]) -> TreeDrafterRun:
        open_context = self._open_context
        context = open_context(prompt) if open_context else DraftContext(self.model, prompt)
        return BestTreeRun(context) if self._is_best else TreeDrafterRun(context, self.shape)


class TreeDrafterRun(DrafterRun):
    """The draft model's context in one run; `shape` is None for "auto"."""

    def __init__(self, context: DraftContext, shape: Shape | None) -> None:
        self._context = context
        self._shape = shape

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        own = self._context.read(context, hidden)
        began_s = time.perf_counter()
        tree = GrowingTree(self._context, own)
        depth = min(budget.depth, self._context.room(own))
        if self._shape is None:
            kept = choose_tree(tree, depth, min(budget.num_nodes, MAX_NODES), budget.stops_at)
        else:
            kept = draw_tree(tree, depth, self._shape, sampler, rng, budget.stops_at)
        sample_s = time.perf_counter() - began_s - tree.forward_s
        return tree.draft(kept, sample_s)

    def close(self) -> None:
        self._context.close()


class BestTreeRun(TreeDrafterRun):
    """Drafts the fixed shape that promises most tokens per second, by what the run has shown.

    The shape of a round follows from acceptance and costs of the rounds before it, none of its own
    draws, so it is as lossless as any fixed one. The first round drafts a chain of all levels, the
    second one of half of them, so that two sizes are known. Then it is planned anew after 2, 4, 8
    and then every 16 rounds: planning takes some milliseconds, and neither moves fast.
    """

    def __init__(self, context: DraftContext) -> None:
        super().__init__(context, CHAIN_OF_ONE)
        self.ranks = RankAcceptance(draw_siblings)
        self._num_rounds = 0
        self._planned_for = (-1, -1)

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        doublings = min(self._num_rounds.bit_length(), 4) + self._num_rounds // 16
        if self._planned_for != (doublings, budget.depth):
            self._planned_for = (doublings, budget.depth)
            self._shape = self._plan(budget)
        self._num_rounds += 1
        return super().propose(context, budget, sampler, rng, hidden)

    def _plan(self, budget: Budget) -> Shape:
        """Return the best shape; at least one token, or nothing would be learnt any more."""
        costs = budget.costs
        if costs is None or self._num_rounds < _NUM_TRIED:
            depth = -(-budget.depth // (1 + self._num_rounds))
            return tuple(range(-1, depth - 1))
        chances, level_s, call_s = self.ranks.chances, costs.level_s, costs.call_s
        shape: Shape = ()
        for most in _PLANNED:  # time grows with the square of it, and few shapes are large
            shape = best_shape(chances, most, min(budget.depth, most), level_s, call_s)
            if len(shape) < most:
                break
        return shape or CHAIN_OF_ONE

    def observe(self, draft: Draft, rows: Sequence[Distribution | None], verdict: Verdict) -> None:
        """Learn from every node that was reached and had a draft below it."""
        children = draft.children()
        for node in (-1, *verdict.path):
            row = rows[node + 1]
            first = children[node + 1][:1]
            law = draft.distributions[first[0]] if first else None
            if row is not None and law is not None:
                self.ranks.add(row, law)


def draw_tree(
    tree: GrowingTree,
    depth: int,
    shape: Shape,
    sampler: Sampler,
    rng: np.random.Generator,
    stops: Stop = never,
) -> list[int]:
    """Grow `tree` to the first `depth` levels of `shape`; return all its nodes.

    A node has fewer children than the shape says where the draft has no more tokens to offer, and
    none where it `stops`: that is asked of the law below the node, before anything is drawn of it.
    """
    children = children_of(shape)
    level = [(-1, -1)]  # a node of the shape, and where it stands in the tree
    for _ in range(depth):
        inner = [(spot, node) for spot, node in level if children[spot + 1]]
        laws = tree.after([node for _, node in inner], sampler)
        level = []
        for (spot, node), law in zip(inner, laws, strict=True):
            spots = children[spot + 1]
            siblings = draw_siblings(law, len(spots), rng) if law and not stops(law) else []
            level += zip(spots, tree.add(node, siblings), strict=False)
    return list(range(len(tree)))


def draw_siblings(law: Distribution, count: int, rng: np.random.Generator) -> list[Candidate]:
    """Draw up to `count` tokens without replacement, then choose what is missing.

    Those chosen are the likeliest by the model's own logits; fewer than `count` come back only
    where the model has no more to say.
    """
    siblings: list[Candidate] = []
    left: Distribution | None = law
    while left is not None:
        token_id = sample(left.probs, rng)
        siblings.append((token_id, left))
        if len(siblings) == count:
            return siblings
        left = left.without(token_id)
    drawn = {token_id for token_id, _ in siblings}
    others = [token_id for token_id in law.top_ids(count) if token_id not in drawn]
    return siblings + [(token_id, None) for token_id in others[: count - len(siblings)]]


def choose_tree(tree: GrowingTree, depth: int, num_nodes: int, stops: Stop = never) -> list[int]:
    """Grow `tree` where the draft is sure; return the `num_nodes` nodes of the likeliest paths.

    They are ascending and none is without its parent, for no path is likelier than a part of it.
    There is nothing below a node where the draft `stops`.
    """
    chances: list[float] = []  # log-probability of the path to each node
    kept: list[int] = []
    level = [-1]
    for _ in range(depth):
        first = len(chances)
        for node, law in zip(level, tree.after(level, _OWN_LAW), strict=True):
            if law is None or stops(law):
                continue
            token_ids = law.top_ids(MAX_CHILDREN)
            tree.add(node, [(token_id, None) for token_id in token_ids])
            above = chances[node] if node >= 0 else 0.0
            chances += [above + law.logprob(token_id) for token_id in token_ids]
        ranked = sorted(range(len(chances)), key=lambda node: -chances[node])
        kept = ranked[:num_nodes]
        # Nothing below the last one could take the place of another.
        level = [node for node in kept[: num_nodes - 1] if node >= first][:_NUM_EXPANDED]
    return sorted(kept)
