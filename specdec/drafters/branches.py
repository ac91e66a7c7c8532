"""Several drafters side by side: each drafts a branch of its own, and the target reads them all.

The draft is the tree of all members' drafts. At each node stand first the children that the first
member drafted, then those of the second, and so on, each with the distribution it was drawn from.

This keeps the law of the target (algorithms §5 (1), "different drafters"). Let c be what the target
wants of the rest when a candidate is tested, and q the law of the candidate, given all that was
decided before. One test emits x with probability min(c, q)(x) and otherwise passes on the residual
of max(0, c − q), and min(c, q) + max(0, c − q) = c: by induction over the siblings, last one first,
a node emits c, whoever drafted them, as long as their order is settled beforehand. Members do not
see each other's tokens, so each candidate's law is the one it was drawn from.

Members often agree, and equal tokens would be scored twice. A token that is *certain* (chosen, or
the only one its distribution allows) is merged with an equal certain one of an earlier member,
which leaves the law as it is: as equal siblings, the second would be tested only after the first
was rejected, when c is 0 there; its test would fail for sure and leave c as it is, for its law has
no mass elsewhere. What differs is only what may stand below the first: the second one's children
follow the first one's, in an order settled beforehand again. An equal token that was *drawn* stays
a sibling: to drop it for what it is would change the law of those that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from specdec.acceptance import Draft, Verdict
from specdec.drafters.base import DrafterRun, Hidden
from specdec.drafters.several import MemberRuns, SeveralDrafters
from specdec.policies.base import MAX_NODES, Budget
from specdec.sampling import Distribution, Sampler


class BranchesDrafter(SeveralDrafters):
    """Draft with two to four drafters at once, a branch each, from the same context.

    Every token names the member that proposed it, a merged one the first of them.
    """

    sign = "|"

    def start(self, prompt: Sequence[int]) -> BranchesRun:
        return BranchesRun(MemberRuns(self.members, prompt))


class BranchesRun(DrafterRun):
    """The members' state in one run."""

    def __init__(self, members: MemberRuns) -> None:
        self._members = members
        self._drafts: list[Draft] = []
        self._places: list[list[int]] = []  # by member, where each of its nodes stands in the tree

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        share = share_of(budget, len(self._members))
        self._drafts = []
        for index, run in enumerate(self._members.runs):
            own_hidden = self._members.hidden_for(index, hidden)
            draft = run.propose(context, share, sampler, rng, own_hidden)
            self._drafts.append(first_nodes(draft, share.num_nodes))
        tree, self._places = join(self._drafts, self._members.names)
        return tree

    def observe(self, draft: Draft, rows: Sequence[Distribution | None], verdict: Verdict) -> None:
        """Tell each member what became of its own branch.

        Its path is the part of the accepted one that it drafted; the final token is the round's,
        which may stand further on, in another member's branch.
        """
        for run, own, places in zip(self._members.runs, self._drafts, self._places, strict=True):
            own_rows = [rows[0], *(rows[place + 1] for place in places)]
            own_path = tuple(n for n, place in enumerate(places) if place in verdict.path)
            own_tests = tuple(verdict.tests[place] for place in places)
            run.observe(own, own_rows, replace(verdict, path=own_path, tests=own_tests))

    def close(self) -> None:
        self._members.close()


def share_of(budget: Budget, num_members: int) -> Budget:
    """Return what each member may draft: as deep as the whole, and its part of the nodes.

    That is never less than a chain, so that the whole may be wider than a budget for a chain says
    (as a tree's shape is its drafter's own affair), but all together never exceed `MAX_NODES`.
    """
    num_nodes = max(budget.depth, budget.num_nodes // num_members)
    num_nodes = min(num_nodes, MAX_NODES // num_members)
    return replace(budget, depth=min(budget.depth, num_nodes), num_nodes=num_nodes)


def first_nodes(draft: Draft, count: int) -> Draft:
    """Return the first `count` nodes of `draft`.

    A drawn node's place was settled before its token, so that this is like having stopped there.
    """
    if len(draft) <= count:
        return draft
    return Draft(
        draft.token_ids[:count],
        draft.parents[:count],
        draft.distributions[:count],
        draft.sample_s,
        draft.drafted_by[:count],
    )


def join(drafts: Sequence[Draft], names: Sequence[str]) -> tuple[Draft, list[list[int]]]:
    """Return the tree of all `drafts`, and for each draft the place of its every node in it."""
    token_ids: list[int] = []
    parents: list[int] = []
    distributions: list[Distribution | None] = []
    drafted_by: list[str] = []
    certain: dict[tuple[int, int], int] = {}  # (parent, token) → place, of the members before
    all_places: list[list[int]] = []
    for draft, name in zip(drafts, names, strict=True):
        places: list[int] = []
        own_certain: dict[tuple[int, int], int] = {}
        for token_id, own_parent, law in zip(
            draft.token_ids, draft.parents, draft.distributions, strict=True
        ):
            parent = places[own_parent] if own_parent >= 0 else -1
            is_certain = law is None or np.count_nonzero(law.probs) == 1
            if is_certain and (parent, token_id) in certain:
                places.append(certain[parent, token_id])
                continue
            places.append(len(token_ids))
            if is_certain:
                own_certain[parent, token_id] = len(token_ids)
            token_ids.append(token_id)
            parents.append(parent)
            distributions.append(law)
            drafted_by.append(name)
        certain |= own_certain
        all_places.append(places)
    sample_s = sum(draft.sample_s for draft in drafts)
    tree = Draft(
        tuple(token_ids), tuple(parents), tuple(distributions), sample_s, tuple(drafted_by)
    )
    return tree, all_places
