"""The tree of a run while it goes on: a window of the last tokens, which follows the newest draft.

It is drawn again and again, so it is bounded, steady and framed for the drafts that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from specdec.records import Drafted, RoundResult, TokenRecord, TokenStatus
from specdec.settings import MAX_MAX_TOKENS
from specdec.view.chips import (
    FEWEST_CHARS,
    FRAME_UNITS,
    GUTTER_UNITS,
    LABEL_CHARS,
    chip_units,
    shortened,
    signed,
)
from specdec.view.facts import TextOf
from specdec.view.tree import (
    OWN_LANES,
    ROOT,
    Bracket,
    Branches,
    Picture,
    TreeNode,
    bracket,
    branch_nodes,
    branch_of_each,
    edges,
    in_lanes,
    last_id,
    lead,
    round_nodes,
    short_label,
    widths,
)

MOST_COLUMNS = 24
"""So many tokens before the newest draft may still be in the window."""
LANES_IN_TWO_LINES = 2
FINAL_UNITS = 88
"""Room for the token that the target adds to a draft, whatever it will be."""
_CONTEXT_UNITS = 70
"""Room for what a draft goes on from."""


def live_picture(
    rounds: Sequence[RoundResult],
    pending: Drafted | None,
    text_of: TextOf,
    *,
    whole: Drafted | None = None,
    has_fallen: bool = False,
) -> Picture:
    """Frame the last tokens in a window that ends with the newest draft, all of it.

    Its first column follows from the draft as it was sent, so that nothing moves while a round
    goes on; with the next draft the window goes on by as many tokens as were written. The branches
    of older rounds are cut to their first token and a count, which keeps the window of chains
    below some 45 tokens, the most that agraph redraws without lag.
    """
    draft = _newest(rounds, whole or pending)
    before_it = list(rounds if pending is not None else rounds[:-1])
    near = [r for r in before_it if r.position + len(r.emitted) > draft.head - MOST_COLUMNS]
    branches = Branches()
    older, newest = [lead(ROOT, "prompt", -1)], []
    before = ROOT
    for result in before_it[: len(before_it) - len(near)][-1:]:
        before = last_id(result, before)
    for result in near:
        older += round_nodes(result, before, branches, text_of, cut=True)
        before = last_id(result, before)
    brackets = [one for result in near for one in bracket(result)]
    if pending is not None:
        newest += branch_nodes(
            pending.candidates, pending.round, before, branches, text_of, as_drafted=not has_fallen
        )
        last = max(one.position for one in pending.candidates)
        brackets.append(Bracket(pending.round, 0, draft.head, last))
    elif rounds:
        newest += round_nodes(rounds[-1], before, branches, text_of, cut=False)
        brackets += bracket(rounds[-1])
    frame = _frame(draft, widths(older), text_of)
    kept = _joined([node for node in older if node.column >= frame.first])
    shown = [frame.placed(node) for node in in_lanes([*kept, *newest], branches)]
    usual = LANES_IN_TWO_LINES if frame.in_two_lines else OWN_LANES
    num_lanes = max(usual, _most_lanes(rounds, draft), *(node.lane for node in shown), 0) + 1
    return Picture(
        tuple(shown),
        (frame.edges,),
        (num_lanes,),
        tuple(
            replace(one, first=max(0, one.first - frame.first), last=one.last - frame.first)
            for one in brackets
            if one.last >= frame.first
        ),
    )


def _joined(nodes: Sequence[TreeNode]) -> list[TreeNode]:
    """Leave out what hangs from a token that has left the window."""
    shown = {node.id for node in nodes}
    return [node for node in nodes if node.branch is None or node.parent in shown]


@dataclass(frozen=True, slots=True)
class _Draft:
    """The newest draft as it was sent: where it begins, and its tokens."""

    head: int
    candidates: tuple[TokenRecord, ...]

    @property
    def end(self) -> int:
        """Return the column behind it, where the target's own token stands at last."""
        return max((one.position + 1 for one in self.candidates), default=self.head)


def _newest(rounds: Sequence[RoundResult], pending: Drafted | None) -> _Draft:
    if pending is not None:
        return _Draft(pending.candidates[0].position, tuple(pending.candidates))
    if rounds:
        return _Draft(rounds[-1].position, tuple(rounds[-1].candidates))
    return _Draft(0, ())


@dataclass(frozen=True, slots=True)
class _Frame:
    """The columns of the window from `first` on, and what a chip may have: letters and width."""

    first: int
    edges: tuple[float, ...]
    num_chars: int = LABEL_CHARS
    widest: float = FRAME_UNITS
    in_two_lines: bool = False

    def placed(self, node: TreeNode) -> TreeNode:
        """Put a node into the frame, cut to what fits."""
        text, gap, count = node.label.partition("  +")
        column = node.column - self.first
        left = self.edges[min(column, len(self.edges) - 1)]
        room = min(self.widest, FRAME_UNITS - left)
        chars = self.num_chars
        label = shortened(text, chars) + gap + count
        while chars > 1 and chip_units(signed(label, node.status)) > room:
            chars -= 1
            label = shortened(text, chars) + gap + count
        is_low = self.in_two_lines and node.column % 2 == 1
        return replace(node, label=label, is_low=is_low, column=column)


def _frame(draft: _Draft, before: Mapping[int, float], text_of: TextOf) -> _Frame:
    """Fit the newest draft and as much as there is room for before it."""
    for num_chars in range(LABEL_CHARS, FEWEST_CHARS - 1, -1):
        reserved = _reserved(draft, text_of, num_chars)
        if edges(reserved)[-1] + GUTTER_UNITS + _CONTEXT_UNITS <= FRAME_UNITS:
            return _one_line(draft, reserved, before, num_chars)
    first = draft.head - 1
    pitch = FRAME_UNITS / (draft.end - first + 1.5)
    lefts = [pitch * index for index in range(draft.end - first + 2)]
    return _Frame(first, tuple(lefts), widest=2 * pitch - GUTTER_UNITS / 2, in_two_lines=True)


def _reserved(draft: _Draft, text_of: TextOf, num_chars: int) -> dict[int, float]:
    """Return the room that each column of a draft takes, however it is answered."""
    found: dict[int, float] = {draft.end: FINAL_UNITS}
    for one in draft.candidates:
        label = signed(short_label(text_of(one.token_id), num_chars), TokenStatus.REJECTED)
        found[one.position] = max(found.get(one.position, 0.0), chip_units(label))
    return found


def _one_line(
    draft: _Draft, reserved: Mapping[int, float], before: Mapping[int, float], num_chars: int
) -> _Frame:
    """Go back from the draft as far as there is room."""
    columns = dict(reserved)
    first = draft.head
    while first - 1 in before:
        longer = columns | {first - 1: before[first - 1]}
        if edges(longer)[-1] > FRAME_UNITS:
            break
        first, columns = first - 1, longer
    return _Frame(first, edges(columns), num_chars)


def _most_lanes(rounds: Sequence[RoundResult], newest: _Draft) -> int:
    """Return the most lanes below lane 0 that any draft so far took.

    The frame grows and never shrinks: the view is fitted to it once, so another size mounts the
    graph anew.
    """
    return max(
        (
            _extent(
                tuple([one.parent for one in candidates]),
                tuple([one.status is TokenStatus.ACCEPTED for one in candidates]),
            )
            for candidates in (*(r.candidates for r in rounds), newest.candidates)
        ),
        default=0,
    )


@lru_cache(maxsize=MAX_MAX_TOKENS)
def _extent(parents: tuple[int, ...], accepted: tuple[bool, ...]) -> int:
    """Return the lanes that a draft takes below lane 0.

    They are the most that it takes while pending, as answered, and if all of it had failed, so
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
    return num_lanes
