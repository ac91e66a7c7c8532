"""The tree of a run while it goes on: a window of the last rounds that moves on by pages.

It is drawn again and again, so it is bounded, steady and framed for the drafts that it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from specdec.records import Drafted, RoundResult, TokenRecord, TokenStatus
from specdec.settings import MAX_MAX_TOKENS
from specdec.view.facts import TextOf
from specdec.view.tree import (
    ROOT,
    Branches,
    Picture,
    TreeNode,
    branch_nodes,
    branch_of_each,
    in_lanes,
    last_id,
    lead,
    round_nodes,
)

MIN_WINDOW_COLUMNS = 10
WINDOW_LANES = 3
PAGE_MARGIN_COLUMNS = 5
"""What a page is wider than the deepest draft: some output before it, and the next final token."""


def live_picture(
    rounds: Sequence[RoundResult],
    pending: Drafted | None,
    text_of: TextOf,
    *,
    whole: Drafted | None = None,
    has_fallen: bool = False,
) -> Picture:
    """Frame the last rounds in a window that moves on by pages and not by tokens.

    The newest draft is there with every token, pending or answered. The branches of older rounds
    are cut to their first token and a count, and those below the third lane left out, which keeps
    the window of chains below some 45 nodes, the most that agraph redraws without lag.
    """
    drafts = [(r.position, r.candidates) for r in rounds]
    if pending is not None:
        framed = whole or pending
        drafts.append((framed.candidates[0].position, framed.candidates))
    window = _window(drafts)
    visible_rounds = [r for r in rounds if r.position + max(1, len(r.emitted)) > window.start]
    branches = Branches()
    older: list[TreeNode] = []
    newest: list[TreeNode] = []
    before = ROOT
    for result in rounds[: len(rounds) - len(visible_rounds)][-1:]:
        before = last_id(result, before)
    for result in visible_rounds:
        is_newest = result is rounds[-1] and pending is None
        nodes = newest if is_newest else older
        nodes += round_nodes(result, before, branches, text_of, cut=not is_newest)
        before = last_id(result, before)
    if pending is not None:
        newest += branch_nodes(
            pending.candidates,
            pending.round,
            before,
            branches,
            text_of,
            as_drafted=not has_fallen,
        )
    newest = in_lanes(newest, branches)
    kept = [
        node
        for node in in_lanes(older, branches)
        if node.column >= window.start - 1 and node.lane <= WINDOW_LANES
    ]
    shown = [
        replace(node, column=node.column - window.start)
        for node in (*_root(window.start), *kept, *newest)
    ]
    # A file may hold rounds that emit nothing: a branch of theirs can be in the newest one's way.
    num_lanes = max(window.num_lanes, max((node.lane for node in newest), default=0))
    return Picture(tuple(shown), window.width, (num_lanes + 1,))


@dataclass(frozen=True, slots=True)
class _Window:
    """The columns from `start` on that are seen, and the lanes below lane 0."""

    start: int
    width: int
    num_lanes: int


def _window(drafts: Iterable[tuple[int, Sequence[TokenRecord]]]) -> _Window:
    """Return the page that the last of `drafts` fits on, each given by where it begins.

    Its size follows from the drafts themselves, since K may be another one in every round. It
    grows and never shrinks: the view is fitted to it once, so another size mounts the graph anew.
    Pages turn when a draft begins, never when it is answered, so that the answer is seen.
    """
    start, width, num_lanes = 0, MIN_WINDOW_COLUMNS, WINDOW_LANES
    for head, candidates in drafts:
        depth = 0
        if candidates:
            depth, lanes = _extent(
                tuple([one.parent for one in candidates]),
                tuple([one.status is TokenStatus.ACCEPTED for one in candidates]),
            )
            width = max(width, depth + PAGE_MARGIN_COLUMNS)
            num_lanes = max(num_lanes, lanes)
        if head + depth + 1 > start + width:
            start = head - 2
    return _Window(start, width, num_lanes)


@lru_cache(maxsize=MAX_MAX_TOKENS)
def _extent(parents: tuple[int, ...], accepted: tuple[bool, ...]) -> tuple[int, int]:
    """Return the columns of a draft and the lanes that it takes below lane 0.

    The lanes are the most that it takes while pending, as answered, and if all of it had failed, so
    that an answer hardly ever needs another frame than its draft. All rounds of a run are asked at
    each redraw; there are no more of them than tokens.
    """
    columns: list[int] = []
    for parent in parents:
        columns.append(0 if parent < 0 else columns[parent] + 1)
    failed = [
        TokenRecord(0, parent, column, TokenStatus.REJECTED)
        for parent, column in zip(parents, columns, strict=True)
    ]
    pending = [replace(record, status=TokenStatus.PENDING) for record in failed]
    answered = [
        replace(record, status=TokenStatus.ACCEPTED) if passed else record
        for record, passed in zip(failed, accepted, strict=True)
    ]
    num_lanes = 0
    for candidates in (failed, pending, answered):
        branches = Branches()
        branch_of_each(candidates, branches)
        num_lanes = max(num_lanes, *branches.lanes(), 0)
    return max(columns, default=-1) + 1, num_lanes


def _root(start: int) -> Iterator[TreeNode]:
    if start == 0:
        yield lead(ROOT, "prompt", -1)
