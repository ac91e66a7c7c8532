"""A picture of the tree in the terms of streamlit-agraph, which draws with vis-network.

Two traps of the component are avoided here. It assigns a node's `title` to `innerHTML`, so no
title may hold markup: a word joiner stands after each `<`. And double-clicking a node opens a new
tab at its title: the live tree cannot be selected, and the clickable one brings its tooltips in
through vis-network's groups, which the component does not look at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil
from typing import Any

from specdec.records import TokenStatus
from specdec.view.palette import LOOKS, SHADOW_TEXT
from specdec.view.text import PICTURE_PX, WORD_JOINER
from specdec.view.tree import Picture, TreeNode

COLUMN_UNITS, ROW_GAP_UNITS = 84, 20
LABEL_PX = 16
"""How high a label is at least, where a picture is `PICTURE_PX` wide."""
_EDGE_COLOR = "#94a3b8"
_MIN_FONT_UNITS, _NODE_UNITS, _LETTER_SHARE = 24, 48, 0.5
"""A label's least size, the room of a node above it, and a letter's width by its height."""
_FITTING_SHARE = 1.1
"""vis-network fits a picture with a tenth of its size around it."""
_NARROW_CHARS = 5
"""Where fewer letters fit between two columns, every other label stands a line lower."""


@dataclass(frozen=True, slots=True)
class Ink:
    """The colours of a theme on a canvas, where no style sheet reaches."""

    text: str
    paper: str


INKS = {"light": Ink("#1f2937", "#ffffff"), "dark": Ink("#e5e7eb", "#0e1117")}
"""By the name of the theme; the papers are those of .streamlit/config.toml."""
UNKNOWN_INK = Ink(SHADOW_TEXT, "rgba(0,0,0,0)")


def graph_data(picture: Picture, ink: Ink, *, clickable: bool = False) -> str:
    """Return the nodes and edges of `picture` as the JSON that the component takes."""
    grid = _Grid.of(picture)
    tops = _row_tops(picture)
    nodes = [_vis_node(node, tops[node.row], grid, ink, clickable) for node in picture.nodes]
    drawn = {node.id: node for node in picture.nodes}
    edges = [_vis_edge(node) for node in picture.nodes if node.parent in drawn]
    return json.dumps({"nodes": [*nodes, *_anchors(picture, tops)], "edges": edges})


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
    lanes, rows = sum(picture.lanes_per_row), len(picture.lanes_per_row)
    units = lanes * _Grid.of(picture).lane_units + rows * ROW_GAP_UNITS
    return round(_FITTING_SHARE * units * width_px / _width_units(picture)) + 20


def _width_units(picture: Picture) -> float:
    """Return what is fitted into the width: what is between the corners, with room around."""
    return _FITTING_SHARE * (picture.num_columns + 1) * COLUMN_UNITS


@dataclass(frozen=True, slots=True)
class _Grid:
    """Sizes in a picture's own units: the more columns, the larger are letters, to stay readable.

    `max_chars` is what fits between the labels beside, in one line or, if `is_staggered`, in two.
    """

    font_units: int
    lane_units: int
    max_chars: int
    is_staggered: bool

    @classmethod
    def of(cls, picture: Picture) -> _Grid:
        font = max(_MIN_FONT_UNITS, ceil(LABEL_PX * _width_units(picture) / PICTURE_PX))
        fitting = COLUMN_UNITS / (_LETTER_SHARE * font)
        is_staggered = fitting < _NARROW_CHARS
        lines = 2 if is_staggered else 1
        return cls(font, _NODE_UNITS + lines * font, int(lines * fitting), is_staggered)

    def fitted(self, label: str) -> str:
        """Return a label cut to what fits; the count behind a cut branch is kept."""
        text, gap, count = label.partition("  +")
        shown = text if len(text) <= self.max_chars else text[: self.max_chars - 1] + "…"
        return shown + gap + count

    def drop_units(self, column: int) -> int:
        """Return how far below its usual place a label stands."""
        return self.font_units if self.is_staggered and column % 2 else 0


def _row_tops(picture: Picture) -> list[int]:
    tops, top, lane_units = [], 0, _Grid.of(picture).lane_units
    for lanes in picture.lanes_per_row:
        tops.append(top)
        top += lanes * lane_units + ROW_GAP_UNITS
    return tops


def _vis_node(node: TreeNode, top: int, grid: _Grid, ink: Ink, clickable: bool) -> dict[str, Any]:
    look = LOOKS.get(node.status) if node.status else None
    color = look.color if look else SHADOW_TEXT
    hollow = node.status in (TokenStatus.DISCARDED, TokenStatus.PENDING)
    vis: dict[str, Any] = {
        "id": node.id,
        "x": node.column * COLUMN_UNITS,
        "y": top + node.lane * grid.lane_units,
        "fixed": True,
        "label": grid.fitted(node.label),
        "shape": look.shape if look else "dot",
        "size": round(node.size, 1),
        "opacity": round(node.opacity, 2),
        "color": _colors(color, hollow),
        "borderWidth": 2,
        # Said of every node: what an update leaves out stays as it was.
        "shapeProperties": {"borderDashes": [4, 4] if hollow else False},
        "font": {
            "color": ink.text,
            "size": grid.font_units,
            "vadjust": grid.drop_units(node.column) - 4,
            "strokeWidth": 5,
            "strokeColor": ink.paper,
        },
    }
    if clickable:
        vis |= {"group": node.id, "div": {"innerHTML": ""}}
    else:
        vis["title"] = node.facts.replace("<", "<" + WORD_JOINER)
    return vis


def _colors(color: str, hollow: bool) -> dict[str, Any]:
    background = "rgba(148,163,184,0.25)" if hollow else color
    same = {"background": background, "border": color}
    return {**same, "highlight": same, "hover": same}


def _vis_edge(node: TreeNode) -> dict[str, Any]:
    rejected = node.status is TokenStatus.REJECTED
    color = LOOKS[node.status].color if node.status else _EDGE_COLOR
    if node.status is TokenStatus.PENDING:
        color = _EDGE_COLOR
    return {
        "id": f"{node.parent}>{node.id}",
        "from": node.parent,
        "to": node.id,
        "color": {"color": color, "highlight": color, "hover": color},
        "width": 2.5 if rejected else 2,
        "dashes": [8, 6] if rejected else node.status is TokenStatus.DISCARDED,
    }


def _anchors(picture: Picture, tops: list[int]) -> list[dict[str, Any]]:
    """Return two invisible nodes at the corners: the view is fitted to them once, at the start."""
    right = (picture.num_columns - 0.5) * COLUMN_UNITS
    lane = _Grid.of(picture).lane_units
    bottom = tops[-1] + (picture.lanes_per_row[-1] - 1) * lane + lane // 2
    corners = [(-1.5 * COLUMN_UNITS, -lane // 2), (right, bottom)]
    return [
        {
            "id": f"corner{index}",
            "x": x,
            "y": y,
            "fixed": True,
            "shape": "dot",
            "size": 1,
            "label": "",
            "color": "rgba(0,0,0,0)",
            "borderWidth": 0,
        }
        for index, (x, y) in enumerate(corners)
    ]
