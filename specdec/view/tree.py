"""The token tree as places on a grid: columns are output positions, lanes are branches.

The output runs along lane 0; what was rejected hangs below it, each round a branch of its own.
Positions are fixed by this module alone (no physics), so a token never moves but to fall off
lane 0 when it is rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.view.facts import TextOf, token_facts, visible

COLUMNS_PER_ROW = 9
MAX_NODES = 600
LABEL_CHARS = 8
ROOT = "prompt"

_MAX_ENTROPY, _MIN_SIZE, _MAX_SIZE = 4.0, 8.0, 24.0


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One token in its place; `branch` is None on lane 0, `round` for what is no token."""

    id: str
    parent: str | None
    label: str
    facts: str
    status: TokenStatus | None
    column: int
    size: float
    opacity: float
    branch: int | None = None
    lane: int = 0
    row: int = 0
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """Nodes to draw, and the grid that frames them."""

    nodes: tuple[TreeNode, ...]
    num_columns: int
    lanes_per_row: tuple[int, ...]


def node_size(entropy: float | None) -> float:
    """Return 8 to 24 pixels for 0 to 4 nats; the middle where the entropy is unknown."""
    if entropy is None:
        return (_MIN_SIZE + _MAX_SIZE) / 2
    share = min(1.0, max(0.0, entropy / _MAX_ENTROPY))
    return _MIN_SIZE + share * (_MAX_SIZE - _MIN_SIZE)


def node_opacity(record: TokenRecord) -> float:
    """Return 0.4 to 1 for an acceptance probability of 0 to 1; full where nothing was tested.

    A rejected token is full too: a bold wrong guess must not be the faintest thing to be seen.
    """
    if record.status is TokenStatus.DISCARDED:
        return 0.4
    if record.status is TokenStatus.REJECTED or record.acceptance_prob is None:
        return 1.0
    return 0.4 + 0.6 * record.acceptance_prob


def short_label(text: str) -> str:
    """Return `text` cut to fit between two columns; the usual space before it goes unsaid."""
    shown = visible(text.removeprefix(" ") or text)
    return shown if len(shown) <= LABEL_CHARS else shown[: LABEL_CHARS - 1] + "…"


class Branches:
    """The branches below lane 0 of one row, each a stretch of columns that wants a lane.

    They get their lanes together, the rightmost first: an older branch goes below the newer ones
    it reaches under, so no edge crosses a branch.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[int, int]] = []

    def open(self, column: int) -> int:
        """Begin a branch at `column` and return its number."""
        self._ends.append((column, column))
        return len(self._ends) - 1

    def extend(self, branch: int, column: int) -> None:
        """Let a branch reach `column`."""
        self._ends[branch] = (self._ends[branch][0], column)

    def lanes(self) -> list[int]:
        """Return the lane of each branch, counted from 1."""
        lanes = [0] * len(self._ends)
        taken_from: list[int] = []
        for branch in sorted(range(len(lanes)), key=lambda b: self._ends[b][0], reverse=True):
            start, end = self._ends[branch]
            free = (lane for lane, left in enumerate(taken_from) if left > end)
            lane = next(free, len(taken_from))
            if lane == len(taken_from):
                taken_from.append(start)
            taken_from[lane] = start
            lanes[branch] = lane + 1
        return lanes


def in_lanes(nodes: Sequence[TreeNode], branches: Branches) -> list[TreeNode]:
    lanes = branches.lanes()
    return [
        node if node.branch is None else replace(node, lane=lanes[node.branch]) for node in nodes
    ]


def last_id(result: RoundResult, before: str) -> str:
    """Return the id of the last token a round emitted; `before` where it emitted none."""
    ids = [
        f"r{result.round}c{index}"
        for index, candidate in enumerate(result.candidates)
        if candidate.status is TokenStatus.ACCEPTED
    ]
    emitted = [before, *ids, f"r{result.round}f"]
    return emitted[len(result.emitted)]


def round_nodes(
    result: RoundResult, before: str, branches: Branches, text_of: TextOf, *, cut: bool
) -> list[TreeNode]:
    nodes = branch_nodes(result.candidates, result.round, before, branches, text_of, cut=cut)
    if result.final is not None:
        parent = before if result.final.parent < 0 else f"r{result.round}c{result.final.parent}"
        nodes.append(_node(result.final, f"r{result.round}f", parent, result.round, None, text_of))
    return nodes


def branch_nodes(
    candidates: Sequence[TokenRecord],
    round_number: int,
    before: str,
    branches: Branches,
    text_of: TextOf,
    *,
    cut: bool = False,
    as_drafted: bool = False,
) -> list[TreeNode]:
    """Put a round's candidates in their places on lane 0 and on branches.

    With `cut`, a branch is its first token and the number of those behind it. With `as_drafted`,
    answers are shown, but nothing has moved to where they put it yet.
    """
    placed = candidates
    if as_drafted:
        placed = [replace(one, status=TokenStatus.PENDING) for one in candidates]
    branch_of = branch_of_each(placed, branches, cut=cut)
    sizes = Counter(branch_of)
    nodes: list[TreeNode] = []
    for index, (candidate, branch) in enumerate(zip(candidates, branch_of, strict=True)):
        parent = candidate.parent
        if cut and branch is not None and parent >= 0 and branch_of[parent] == branch:
            continue
        parent_id = before if parent < 0 else f"r{round_number}c{parent}"
        node_id = f"r{round_number}c{index}"
        node = _node(candidate, node_id, parent_id, round_number, branch, text_of)
        if cut and branch is not None and sizes[branch] > 1:
            branches.extend(branch, node.column + 1)  # the count is wider than a column
            node = replace(node, label=f"{node.label}  +{sizes[branch] - 1}")
        nodes.append(node)
    return nodes


def branch_of_each(
    candidates: Sequence[TokenRecord], branches: Branches, *, cut: bool = False
) -> list[int | None]:
    """Return each candidate's branch; None on lane 0: accepted, or pending and first choice.

    With `cut`, all that grows out of a branch belongs to it, and does not make it longer.
    """
    branch_of: list[int | None] = []
    continued: set[int] = set()
    for candidate in candidates:
        parent, column = candidate.parent, candidate.position
        above = None if parent < 0 else branch_of[parent]
        first_child = parent not in continued
        continued.add(parent)
        if candidate.status is TokenStatus.ACCEPTED or (
            candidate.status is TokenStatus.PENDING and above is None and first_child
        ):
            branch_of.append(None)
        elif above is not None and (cut or first_child):
            if not cut:
                branches.extend(above, column)
            branch_of.append(above)
        else:
            branch_of.append(branches.open(column))
    return branch_of


def _node(
    record: TokenRecord,
    node_id: str,
    parent: str,
    round_number: int,
    branch: int | None,
    text_of: TextOf,
) -> TreeNode:
    entropy = record.draft_entropy if record.target_entropy is None else record.target_entropy
    return TreeNode(
        id=node_id,
        parent=parent,
        label=short_label(text_of(record.token_id)),
        facts=token_facts(record, round_number + 1, text_of),
        status=record.status,
        column=record.position,
        size=node_size(entropy),
        opacity=node_opacity(record),
        branch=branch,
        round=round_number,
    )


def slices(rounds: Sequence[RoundResult], max_nodes: int = MAX_NODES) -> list[range]:
    """Split a run into stretches of rounds of at most `max_nodes` nodes each."""
    stretches: list[range] = []
    begin = count = 0
    for result in rounds:
        size = len(result.candidates) + (result.final is not None)
        if count and count + size > max_nodes:
            stretches.append(range(begin, result.round))
            begin, count = result.round, 0
        count += size
    if count:
        stretches.append(range(begin, rounds[-1].round + 1))
    return stretches


def wrapped_picture(
    rounds: Sequence[RoundResult],
    text_of: TextOf,
    stretch: range,
    columns: int = COLUMNS_PER_ROW,
) -> Picture:
    """Lay the rounds of `stretch` out in rows of whole rounds, nothing left out."""
    nodes: list[TreeNode] = []
    lanes_per_row: list[int] = []
    for row, part in enumerate(_rows([rounds[number] for number in stretch], columns)):
        branches = Branches()
        start = part[0].position
        first = lead(f"row{row}", "↳" if part[0].round else "prompt", start - 1)
        before = first.id
        placed = [first]
        for result in part:
            placed += round_nodes(result, before, branches, text_of, cut=False)
            before = last_id(result, before)
        nodes += [
            replace(node, row=row, column=node.column - start)
            for node in in_lanes(placed, branches)
        ]
        lanes_per_row.append(max(branches.lanes(), default=0) + 1)
    width = max((node.column + 1 for node in nodes), default=columns)
    return Picture(tuple(nodes), max(width, columns), tuple(lanes_per_row))


def _rows(rounds: Sequence[RoundResult], columns: int) -> Iterator[list[RoundResult]]:
    """Cut rounds into rows of whole rounds that emit at most `columns` tokens."""
    row: list[RoundResult] = []
    for result in rounds:
        if row and result.position + len(result.emitted) > row[0].position + columns:
            yield row
            row = []
        row.append(result)
    if row:
        yield row


def lead(node_id: str, label: str, column: int) -> TreeNode:
    """Return the mark from which a row goes on."""
    return TreeNode(node_id, None, label, "", None, column, 10.0, 1.0)
