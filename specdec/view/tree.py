"""The token tree as places on a grid: columns are output positions, lanes are branches.

The output runs along lane 0; what was rejected hangs below it, each round a branch of its own.
Positions are fixed by this module alone (no physics), so a token never moves but to fall off
lane 0 when it is rejected. A column is as wide as the widest chip that stands in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.view.chips import FRAME_UNITS, GUTTER_UNITS, LABEL_CHARS, chip_units, shortened, signed
from specdec.view.facts import TextOf, token_facts, visible

MAX_NODES = 600
OWN_LANES = 4
"""So many rounds hang below the output in lanes of their own; further ones share these."""
ROOT = "prompt"

_MAX_ENTROPY = 4.0


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One token in its place; `branch` is None on lane 0, `round` for what is no token.

    `height` is 0 to 1, by entropy. `is_low` puts it in the lower of its lane's two lines.
    """

    id: str
    parent: str | None
    label: str
    facts: str
    status: TokenStatus | None
    column: int
    height: float
    opacity: float
    branch: int | None = None
    lane: int = 0
    row: int = 0
    round: int | None = None
    is_low: bool = False


@dataclass(frozen=True, slots=True)
class Bracket:
    """What a round wrote, or drafted while it waits: the first and the last of its columns."""

    round: int
    row: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Nodes to draw, and the grid that frames them.

    `columns[row]` has the left edge of every column, and last the right end of the row.
    """

    nodes: tuple[TreeNode, ...]
    columns: tuple[tuple[float, ...], ...]
    lanes_per_row: tuple[int, ...]
    brackets: tuple[Bracket, ...] = ()
    width: float = FRAME_UNITS

    @property
    def has_two_lines(self) -> bool:
        """Say whether the chips of a lane stand in two lines in turn."""
        return any(node.is_low for node in self.nodes)


def node_height(entropy: float | None) -> float:
    """Return 0 to 1 for 0 to 4 nats; the middle where the entropy is unknown."""
    return 0.5 if entropy is None else min(1.0, max(0.0, entropy / _MAX_ENTROPY))


def node_opacity(record: TokenRecord) -> float:
    """Return 0.4 to 1 for an acceptance probability of 0 to 1; full where nothing was tested.

    A rejected token is full too: a bold wrong guess must not be the faintest thing to be seen.
    """
    if record.status is TokenStatus.DISCARDED:
        return 0.4
    if record.status is TokenStatus.REJECTED or record.acceptance_prob is None:
        return 1.0
    return 0.4 + 0.6 * record.acceptance_prob


def short_label(text: str, num_chars: int = LABEL_CHARS) -> str:
    """Return `text` cut to so many letters; the usual space before it goes unsaid."""
    return shortened(visible(text.removeprefix(" ") or text), num_chars)


class Branches:
    """The branches below lane 0 of one row, each a stretch of columns that wants a lane.

    They get their lanes together, the rightmost first: an older branch goes below the newer ones
    it reaches under, so no edge crosses a branch. Two rounds share no lane while there are
    `OWN_LANES`, so that what hangs side by side belongs together.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[int, int]] = []
        self._rounds: list[int] = []

    def open(self, column: int, round_number: int = 0) -> int:
        """Begin a branch of a round at `column` and return its number."""
        self._ends.append((column, column))
        self._rounds.append(round_number)
        return len(self._ends) - 1

    def extend(self, branch: int, column: int) -> None:
        """Let a branch reach `column`."""
        self._ends[branch] = (self._ends[branch][0], column)

    def lanes(self, drawn: Collection[int] | None = None) -> list[int]:
        """Return the lane of each branch, counted from 1; 0 for those that are not `drawn`."""
        lanes = [0] * len(self._ends)
        wanted = range(len(lanes)) if drawn is None else drawn
        taken_from: list[int] = []
        rounds: list[int] = []
        for branch in sorted(wanted, key=lambda b: self._ends[b][0], reverse=True):
            start, end = self._ends[branch]
            free = [lane for lane, left in enumerate(taken_from) if left > end]
            own = [lane for lane in free if rounds[lane] == self._rounds[branch]]
            if not own and len(taken_from) >= OWN_LANES:
                own = free
            lane = own[0] if own else len(taken_from)
            if lane == len(taken_from):
                taken_from.append(start)
                rounds.append(self._rounds[branch])
            taken_from[lane] = start
            lanes[branch] = lane + 1
        return lanes


def in_lanes(nodes: Sequence[TreeNode], branches: Branches) -> list[TreeNode]:
    """Give each node the lane of its branch."""
    lanes = branches.lanes({node.branch for node in nodes if node.branch is not None})
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
    """Put everything a round drafted and wrote in its place."""
    nodes = branch_nodes(result.candidates, result.round, before, branches, text_of, cut=cut)
    if result.final is not None:
        parent = before if result.final.parent < 0 else f"r{result.round}c{result.final.parent}"
        nodes.append(_node(result.final, f"r{result.round}f", parent, result.round, None, text_of))
    return nodes


def bracket(result: RoundResult, row: int = 0) -> list[Bracket]:
    """Return the bracket over what a round wrote; none where it wrote nothing."""
    last = result.position + len(result.emitted) - 1
    return [Bracket(result.round, row, result.position, last)] if result.emitted else []


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
    branch_of = branch_of_each(placed, branches, cut=cut, round_number=round_number)
    sizes = Counter(branch_of)
    nodes: list[TreeNode] = []
    for index, (candidate, branch) in enumerate(zip(candidates, branch_of, strict=True)):
        parent = candidate.parent
        if cut and branch is not None and branch in branch_of[:index]:
            continue
        parent_id = before if parent < 0 else f"r{round_number}c{parent}"
        node_id = f"r{round_number}c{index}"
        node = _node(candidate, node_id, parent_id, round_number, branch, text_of)
        if cut and branch is not None and sizes[branch] > 1:
            node = replace(node, label=f"{node.label}  +{sizes[branch] - 1}")
        nodes.append(node)
    return nodes


def branch_of_each(
    candidates: Sequence[TokenRecord],
    branches: Branches,
    *,
    cut: bool = False,
    round_number: int = 0,
) -> list[int | None]:
    """Return each candidate's branch; None on lane 0: accepted, or pending and first choice.

    With `cut`, all that grows out of a branch belongs to it and does not make it longer, and so
    do its siblings.
    """
    branch_of: list[int | None] = []
    continued: set[int] = set()
    opened: dict[int, int] = {}
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
        elif cut and parent in opened:
            branch_of.append(opened[parent])
        else:
            opened[parent] = branches.open(column, round_number)
            branch_of.append(opened[parent])
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
        height=node_height(entropy),
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
    width: float = FRAME_UNITS,
) -> Picture:
    """Lay the rounds of `stretch` out in rows of whole rounds, nothing left out.

    A row is as many rounds as fit into `width`, and one at least: the picture is as wide as the
    widest row.
    """
    nodes: list[TreeNode] = []
    columns: list[tuple[float, ...]] = []
    lanes_per_row: list[int] = []
    brackets: list[Bracket] = []
    for row, part in enumerate(_rows([rounds[number] for number in stretch], text_of, width)):
        branches = Branches()
        start = part[0].position - 1
        first = lead(f"row{row}", "↳" if part[0].round else "prompt", start)
        before = first.id
        placed = [first]
        for result in part:
            placed += round_nodes(result, before, branches, text_of, cut=False)
            before = last_id(result, before)
            brackets += [
                replace(one, first=one.first - start, last=one.last - start)
                for one in bracket(result, row)
            ]
        of_row = [
            replace(node, row=row, column=node.column - start)
            for node in in_lanes(placed, branches)
        ]
        nodes += of_row
        columns.append(edges(widths(of_row)))
        lanes_per_row.append(max(branches.lanes(), default=0) + 1)
    return Picture(
        tuple(nodes),
        tuple(columns),
        tuple(lanes_per_row),
        tuple(brackets),
        max([width, *(row[-1] for row in columns)]),
    )


def _rows(
    rounds: Sequence[RoundResult], text_of: TextOf, width: float
) -> Iterator[list[RoundResult]]:
    """Cut rounds into rows of whole rounds that fit into `width`, tails included."""
    row: list[RoundResult] = []
    before: dict[int, float] = {}
    for result in rounds:
        own = widths(round_nodes(result, "", Branches(), text_of, cut=False))
        longer = {column: max(before.get(column, 0), own.get(column, 0)) for column in before | own}
        lead_units = chip_units("prompt") + GUTTER_UNITS
        if row and lead_units + edges(longer)[-1] > width:
            yield row
            row, longer = [], own
        row.append(result)
        before = longer
    if row:
        yield row


def widths(nodes: Sequence[TreeNode]) -> dict[int, float]:
    """Return how wide each column is that has a chip."""
    found: dict[int, float] = {}
    for node in nodes:
        units = chip_units(signed(node.label, node.status))
        found[node.column] = max(units, found.get(node.column, 0.0))
    return found


def edges(widths: Mapping[int, float]) -> tuple[float, ...]:
    """Return the left edges of the columns from the first to the last, and where the last ends."""
    if not widths:
        return (0.0,)
    left, found = 0.0, []
    for column in range(min(widths), max(widths) + 1):
        found.append(left)
        left += widths.get(column, 0.0) + GUTTER_UNITS
    return (*found, left - GUTTER_UNITS)


def lead(node_id: str, label: str, column: int) -> TreeNode:
    """Return the mark from which a row goes on."""
    return TreeNode(node_id, None, label, "", None, column, 0.0, 1.0)
