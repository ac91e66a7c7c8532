"""A draft is a tree; the one rule of the project walks it and decides what the target takes.

Glossary (the words of vLLM's rejection sampler, which says "recovered" for resampled):

- *pending*: a drafted token the target has not answered for yet.
- *accepted*: a drafted token that passed its test; it becomes output.
- *rejected*: a drafted token that failed its test; its subtree dies with it.
- *discarded*: a drafted token that was never tested, because its parent was not accepted or an
  earlier sibling was.
- *resampled*: the token drawn from the residual distribution after every candidate of a node was
  rejected; it ends the round.
- *bonus*: the token drawn from the target after the last node of a fully accepted path.

The rule is modified rejection sampling (Leviathan, Kalman, Matias 2023,
https://arxiv.org/abs/2211.17192), applied recursively over the children of each node of a tree
(SpecInfer, Miao et al. 2024, https://arxiv.org/abs/2305.09781; sampling without replacement as in
Jeon et al. 2024, https://arxiv.org/abs/2402.14160). A chain is a tree with one child per node, an
n-gram draft is a point mass, several drafters are several children: no strategy has a rule of its
own. (`specdec.block` is another way to walk a chain, chosen on purpose.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specdec.records import TokenStatus
from specdec.sampling import Distribution, FloatArray, sample


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A tree of drafted tokens in an order where parents precede their children.

    `parents[i]` is the index of node i's parent, −1 for the committed context.
    `distributions[i]` is the distribution token i was actually drawn from, over the target's
    vocabulary; None says that the token was not drawn but chosen (n-gram lookup, argmax): a point
    mass. For siblings drawn without replacement it is the distribution given that the earlier
    ones were rejected. `sample_s` is the share of drafting spent outside forward passes.
    `drafted_by[i]` names the member of a drafter of several that proposed token i; empty where
    there is only one.
    """

    token_ids: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    distributions: tuple[Distribution | None, ...] = ()
    sample_s: float = 0.0
    drafted_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.parents) == len(self.distributions)
        assert len(self.drafted_by) in (0, len(self.token_ids))
        assert all(-1 <= parent < node for node, parent in enumerate(self.parents))

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def chain(
        cls,
        token_ids: Sequence[int],
        distributions: Sequence[Distribution | None] | None = None,
        sample_s: float = 0.0,
    ) -> Draft:
        """Make a draft in which each token follows the one before; point masses by default."""
        parents = tuple(range(-1, len(token_ids) - 1))
        drawn_from = tuple(distributions) if distributions is not None else (None,) * len(parents)
        return cls(tuple(token_ids), parents, drawn_from, sample_s)

    @property
    def is_chain(self) -> bool:
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of drafted tokens above each node: 0 for the children of the context."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    def children(self) -> tuple[tuple[int, ...], ...]:
        """Return the children of the context (entry 0) and of each node i (entry i + 1)."""
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            children[parent + 1].append(node)
        return tuple(map(tuple, children))

    @property
    def leaves(self) -> tuple[int, ...]:
        """The nodes without children, in the draft's order; of an empty draft the context, −1."""
        inner = set(self.parents)
        return tuple(node for node in range(len(self)) if node not in inner) or (-1,)

    def path_to(self, node: int) -> tuple[int, ...]:
        """Return the nodes from a child of the context down to `node`; none for −1."""
        path: list[int] = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return tuple(path[::-1])

    def tokens_to(self, node: int) -> list[int]:
        """Return the token ids along `path_to(node)`."""
        return [self.token_ids[one] for one in self.path_to(node)]

    def draft_probs(self, node: int) -> FloatArray | None:
        """Return the probabilities [vocab_size] that `node` was drawn from, None if chosen."""
        distribution = self.distributions[node]
        return None if distribution is None else distribution.probs


@dataclass(frozen=True, slots=True)
class Test:
    """What became of one drafted token; `acceptance_prob` and `uniform` are None if untested.

    `target_prob` is the target's probability of the token at the moment of its test: for the
    second and later siblings it is taken from the residual their rejected elders left.
    `expected_acceptance` is Σ min(p, q) there, which observed acceptance must follow.
    """

    __test__ = False  # not a pytest class

    status: TokenStatus
    acceptance_prob: float | None = None
    uniform: float | None = None
    target_prob: float | None = None
    expected_acceptance: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The outcome of one round.

    `path` holds the indices of the accepted nodes, root first; `tests` one entry per drafted
    token; `final_token` is None only where the target had no row to draw it from; `final_probs`
    [vocab_size] is what it was drawn from: the target's distribution, or the residual, which sums
    to 1 as well.
    """

    path: tuple[int, ...]
    tests: tuple[Test, ...]
    final_token: int | None
    final_status: TokenStatus
    final_probs: FloatArray | None


def verify(
    draft: Draft, target_probs: Sequence[FloatArray | None], rng: np.random.Generator
) -> Verdict:
    """Walk the draft tree from the root and decide which tokens the target takes.

    Whatever the draft, the emitted tokens follow the target's distribution exactly: one test
    emits x with probability min(p, q)(x) and otherwise passes the residual max(0, p − q) on to
    the next sibling, and min(p, q) + max(0, p − q) = p.

    Args:
        draft: the tree; siblings are tested in the order in which they stand in it.
        target_probs: one row [vocab_size] per context: row 0 after the committed tokens, row
            i + 1 after node i. None where the target could not score: the round ends there with
            what was accepted so far, and no token is drawn.
        rng: source of the uniforms and of the final token.
    """
    tests = [Test(TokenStatus.DISCARDED)] * len(draft)
    children = draft.children()
    path: list[int] = []
    node = -1
    while True:
        row = target_probs[node + 1]
        if row is None:
            return Verdict(tuple(path), tuple(tests), None, TokenStatus.BONUS, None)
        current = row
        accepted = None
        for child in children[node + 1]:
            token_id, draft_probs = draft.token_ids[child], draft.draft_probs(child)
            target_prob = float(current[token_id])
            draft_prob = 1.0 if draft_probs is None else float(draft_probs[token_id])
            acceptance_prob = min(1.0, target_prob / draft_prob)
            uniform = float(rng.random())
            taken = uniform < acceptance_prob
            status = TokenStatus.ACCEPTED if taken else TokenStatus.REJECTED
            expected = target_prob if draft_probs is None else overlap(current, draft_probs)
            tests[child] = Test(status, acceptance_prob, uniform, target_prob, expected)
            if taken:
                accepted = child
                break
            current = residual(current, token_id, draft_probs)
        if accepted is None:
            status = TokenStatus.RESAMPLED if children[node + 1] else TokenStatus.BONUS
            token = sample(current, rng)
            return Verdict(tuple(path), tuple(tests), token, status, current)
        path.append(accepted)
        node = accepted


def overlap(target_probs: FloatArray, draft_probs: FloatArray) -> float:
    """Return Σ min(p, q) of two distributions [vocab_size]: the chance that a draft passes."""
    return float(np.minimum(target_probs, draft_probs).sum(dtype=np.float64))


def residual(current: FloatArray, token_id: int, draft_probs: FloatArray | None) -> FloatArray:
    """Return what is left of `current` [vocab_size] after `token_id` was rejected, normalised.

    `draft_probs` is the distribution the token was drawn from, None for a point mass. A rejection
    implies positive residual mass up to rounding; where rounding ate it, `current` and the draft
    agree to the last bit and `current` itself is the right answer.
    """
    if draft_probs is None:
        left = current.copy()
        left[token_id] = 0.0
    else:
        left = np.maximum(current - draft_probs, 0.0)
    mass = float(left.sum(dtype=np.float64))
    return left / left.dtype.type(mass) if mass > 0.0 else current
