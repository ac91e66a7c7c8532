"""A picture of the tree in the terms of streamlit-agraph, which draws with vis-network.

Two traps of the component are avoided here. It assigns a node's `title` to `innerHTML`, so no
title may hold markup: a word joiner stands after each `<`. And double-clicking a node opens a new
tab at its title: the live tree cannot be selected, and the clickable one brings its tooltips in
through vis-network's groups, which the component does not look at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.records import TokenStatus
from specdec.view.chips import (
    FITTING_SHARE,
    GUTTER_UNITS,
    PADDING_UNITS,
    TEXT_UNITS,
    chip_units,
    signed,
)
from specdec.view.palette import LOOKS, SHADOW_TEXT
from specdec.view.text import PICTURE_PX, WORD_JOINER
from specdec.view.tree import Bracket, Picture, TreeNode

ROW_GAP_UNITS, BRACKET_UNITS = 14, 10
"""What is between two rows, and above a row for the brackets of its rounds."""
LANE_UNITS, LOWEST_LANE_UNITS = 40, 27
LEAST_CHIP_UNITS = 23
MIN_CONTRAST = 4.5
"""Of text on a chip: the least that WCAG 2 asks for."""
_EDGE_COLOR, _FAINT = "#94a3b8", "rgba(148,163,184,0.55)"
_DARK_TEXT, _LIGHT_TEXT = "#0b1220", "#ffffff"
_NOWHERE = "rgba(0,0,0,0)"


@dataclass(frozen=True, slots=True)
class Ink:
    """The colours of a theme on a canvas, where no style sheet reaches."""

    text: str
    paper: str


INKS = {"light": Ink("#1f2937", "#ffffff"), "dark": Ink("#e5e7eb", "#0e1117")}
"""By the name of the theme; the papers are those of .streamlit/config.toml."""
UNKNOWN_INK = Ink(SHADOW_TEXT, "rgba(0,0,0,0)")


def graph_data(
    picture: Picture,
    ink: Ink,
    *,
    height_px: int | None = None,
    clickable: bool = False,
    by_entropy: bool = True,
    by_acceptance: bool = True,
) -> str:
    """Return the nodes and edges of `picture` as the JSON that the component takes.

    Args:
        picture: what to draw.
        ink: the colours of the theme.
        height_px: the height that the picture has to fit into; None where it takes its own.
        clickable: whether a click on a token is asked for.
        by_entropy: whether a chip is as high as the target is unsure.
        by_acceptance: whether a chip is as strong as its chance to be accepted.
    """
    grid = _Grid.of(picture, height_px)
    marks = _Marks(grid, by_entropy=by_entropy, by_acceptance=by_acceptance)
    drawn = {node.id: node for node in picture.nodes}
    nodes = [_vis_node(node, marks, ink, clickable) for node in picture.nodes]
    edges: list[dict[str, Any]] = []
    joints: dict[str, dict[str, Any]] = {}
    for node in picture.nodes:
        if node.parent in drawn:
            edges += _way(node, drawn[node.parent], grid, joints)
    for one in picture.brackets:
        edges.append(_bracket(one, grid, joints))
    return json.dumps({"nodes": [*nodes, *joints.values(), *_corners(grid)], "edges": edges})


def graph_config(picture: Picture, height_px: int, *, clickable: bool = False) -> str:
    """Return vis-network's options as JSON; equal pictures of the live tree give equal bytes."""
    groups = {node.id: {"title": node.facts} for node in picture.nodes} if clickable else {}
    return json.dumps(
        {
            "width": "100%",
            "height": f"{height_px}px",
            "physics": {"enabled": False},
            "layout": {"hierarchical": {"enabled": False}},
            "groups": groups,
            "interaction": {
                "hover": clickable,
                "selectable": clickable,
                "dragNodes": False,
                "dragView": not clickable,
                "zoomView": not clickable,
                "tooltipDelay": 80,
            },
            "edges": {"arrows": {"to": {"enabled": False}}, "smooth": False},
        }
    )


def picture_height_px(picture: Picture, width_px: int = PICTURE_PX) -> int:
    """Return the height at which a picture that fills `width_px` is seen whole."""
    grid = _Grid.of(picture)
    return round(grid.height * width_px / picture.width) + 20


def blank_above_px(height_px: int) -> int:
    """Return how much of a picture's height vis-network leaves blank above it, and below."""
    return max(0, round(height_px * (1 - 1 / FITTING_SHARE) / 2) - 12)


def frame_height(picture: Picture, height_px: int) -> int:
    """Return how high the frame of a picture is; the view is fitted anew where it is another."""
    return round(_Grid.of(picture, height_px).height)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the lanes and columns of a picture lie, in its own units."""

    picture: Picture
    lane_units: float
    lines: int
    turns: Mapping[tuple[int, int], Sequence[str]]
    """By row and column, the parents that branch off to it, each with a line of its own."""
    least_height: float = 0.0

    @classmethod
    def of(cls, picture: Picture, height_px: int | None = None) -> _Grid:
        """Fit the lanes into a height, as far as they can be told apart."""
        lines = 2 if picture.has_two_lines else 1
        lane: float = LANE_UNITS * lines
        turns: dict[tuple[int, int], list[str]] = {}
        for node in picture.nodes:
            parents = turns.setdefault((node.row, node.column), [])
            if node.branch is not None and node.parent and node.parent not in parents:
                parents.append(node.parent)
        if height_px is None:
            return cls(picture, lane, lines, turns)
        rows = len(picture.lanes_per_row)
        room = height_px / FITTING_SHARE
        fitting = (room - rows * (BRACKET_UNITS + ROW_GAP_UNITS)) / sum(picture.lanes_per_row)
        lane = min(lane, max(LOWEST_LANE_UNITS * lines, fitting))
        return cls(picture, lane, lines, turns, room)

    @property
    def height(self) -> float:
        rows = len(self.picture.lanes_per_row)
        needed = self.top(rows - 1) + self.picture.lanes_per_row[-1] * self.lane_units
        return max(self.least_height, needed)

    @property
    def line_units(self) -> float:
        return self.lane_units / self.lines

    def top(self, row: int) -> float:
        """Return where the lanes of a row begin, below its brackets."""
        above = sum(self.picture.lanes_per_row[:row]) * self.lane_units
        return above + row * ROW_GAP_UNITS + (row + 1) * BRACKET_UNITS

    def left(self, row: int, column: int) -> float:
        """Return where a column begins; a tail may hang over the end of what was reserved."""
        edges = self.picture.columns[row]
        return edges[min(column, len(edges) - 1)]

    def way_units(self, node: TreeNode, parent: TreeNode) -> float:
        """Return how far left of a node the way to it turns."""
        parents = self.turns[node.row, node.column]
        place = parents.index(parent.id) + 1
        return GUTTER_UNITS * (1 - place / (len(parents) + 1))

    def middle(self, node: TreeNode) -> float:
        """Return the height of a node's middle."""
        top = self.top(node.row) + node.lane * self.lane_units
        return top + self.line_units * (0.5 + node.is_low)


@dataclass(frozen=True, slots=True)
class _Marks:
    """What the looks of a chip say beside its status."""

    grid: _Grid
    by_entropy: bool
    by_acceptance: bool

    def height(self, node: TreeNode) -> float:
        share = node.height if self.by_entropy else 0.0
        return LEAST_CHIP_UNITS + share * (self.grid.line_units - 4 - LEAST_CHIP_UNITS)

    def opacity(self, node: TreeNode) -> float:
        return node.opacity if self.by_acceptance else 1.0


def _vis_node(node: TreeNode, marks: _Marks, ink: Ink, clickable: bool) -> dict[str, Any]:
    hollow = node.status in (TokenStatus.DISCARDED, TokenStatus.PENDING, None)
    label = signed(node.label, node.status)
    grid, width = marks.grid, chip_units(label)
    border = LOOKS[node.status].color if node.status else _NOWHERE
    # Paper, so that no edge shows through a text.
    fill = ink.paper if hollow else _over(border, ink.paper, marks.opacity(node))
    same = {"background": fill, "border": border}
    vis: dict[str, Any] = {
        "id": node.id,
        "x": round(grid.left(node.row, node.column) + width / 2, 1),
        "y": round(grid.middle(node), 1),
        "fixed": True,
        "label": label,
        "shape": "box",
        "widthConstraint": {"minimum": round(width - 2 * PADDING_UNITS)},
        "heightConstraint": {"minimum": round(marks.height(node)), "valign": "middle"},
        "margin": {"top": 0, "bottom": 0, "left": PADDING_UNITS, "right": PADDING_UNITS},
        "color": {**same, "highlight": same, "hover": same},
        "borderWidth": 2 if hollow else 1,
        # Said of every node: what an update leaves out stays as it was.
        "shapeProperties": {"borderRadius": 5, "borderDashes": [4, 4] if hollow else False},
        "font": {
            "color": ink.text if hollow else _readable_on(fill),
            "size": TEXT_UNITS,
            "face": "sans-serif",
        },
    }
    if clickable:
        vis |= {"group": node.id, "div": {"innerHTML": ""}}
    else:
        vis["title"] = node.facts.replace("<", "<" + WORD_JOINER)
    return vis


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _over(color: str, paper: str, opacity: float) -> str:
    """Return what a colour looks like on a paper; on one that is not known, as on white."""
    below = _rgb(paper if paper.startswith("#") else "#ffffff")
    mixed = (
        round(opacity * above + (1 - opacity) * under)
        for above, under in zip(_rgb(color), below, strict=True)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2)."""

    def luminance(color: str) -> float:
        parts = [part / 255 for part in _rgb(color)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _readable_on(fill: str) -> str:
    return max(_DARK_TEXT, _LIGHT_TEXT, key=lambda text: contrast(text, fill))


def _way(
    node: TreeNode, parent: TreeNode, grid: _Grid, joints: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the edges from a parent: straight along a lane, else by an elbow in the gutter."""
    color, dashes = _edge_look(node)
    if node.lane == parent.lane or grid.lines > 1:
        return [_edge(parent.id, node.id, color, dashes)]
    x = grid.left(node.row, node.column) - grid.way_units(node, parent)
    upper, lower = f"{parent.id}|{node.column}", f"{node.id}|"
    way = [_edge(upper, lower, color, dashes), _edge(lower, node.id, color, dashes)]
    if upper not in joints:
        joints[upper] = _invisible(upper, x, grid.middle(parent))
        own = (color, dashes) if parent.lane else (_EDGE_COLOR, False)  # the output goes on there
        way.append(_edge(parent.id, upper, *own))
    joints[lower] = _invisible(lower, x, grid.middle(node))
    return way


def _edge_look(node: TreeNode) -> tuple[str, Any]:
    if node.status in (None, TokenStatus.PENDING):
        return _EDGE_COLOR, False
    assert node.status is not None
    rejected = node.status is TokenStatus.REJECTED
    return LOOKS[node.status].color, [8, 6] if rejected else node.status is TokenStatus.DISCARDED


def _edge(start: str, end: str, color: str, dashes: Any, width: float = 2) -> dict[str, Any]:
    return {
        "id": f"{start}>{end}",
        "from": start,
        "to": end,
        "color": {"color": color, "highlight": color, "hover": color},
        "width": width,
        "dashes": dashes,
    }


def _bracket(one: Bracket, grid: _Grid, joints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the line over a round's tokens, with a short bar at both ends."""
    y = grid.top(one.row) - BRACKET_UNITS / 2
    left = grid.left(one.row, one.first) + 3
    right = max(left + 8, grid.left(one.row, one.last + 1) - GUTTER_UNITS - 3)
    ends = (f"round{one.round}", f"round{one.round}end")
    for end, x in zip(ends, (left, right), strict=True):
        joints[end] = _invisible(end, x, y)
    bar = {"enabled": True, "type": "bar", "scaleFactor": 0.35}
    return _edge(*ends, _FAINT, False, 1) | {"arrows": {"from": bar, "to": bar}}


def _invisible(node_id: str, x: float, y: float) -> dict[str, Any]:
    """Return a node that nobody sees: an elbow, or a corner that the view is fitted to."""
    return {
        "id": node_id,
        "x": round(x, 1),
        "y": round(y, 1),
        "fixed": True,
        "shape": "dot",
        "size": 0.1,
        "label": "",
        "color": _NOWHERE,
        "borderWidth": 0,
    }


def _corners(grid: _Grid) -> Iterator[dict[str, Any]]:
    """Yield two invisible nodes at the corners: the view is fitted to them once, at the start."""
    yield _invisible("corner0", 0, 0)
    yield _invisible("corner1", grid.picture.width, grid.height)
