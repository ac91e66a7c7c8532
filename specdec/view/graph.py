"""A picture of the tree in the terms of streamlit-agraph, which draws with vis-network.

Two traps of the component are avoided here. It assigns a node's `title` to `innerHTML`, so no
title may hold markup: a word joiner stands after each `<`. And double-clicking a node opens a new
tab at its title: the live tree cannot be selected, and the clickable one brings its tooltips in
through vis-network's groups, which the component does not look at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from specdec.records import TokenStatus
from specdec.view.palette import LOOKS, SHADOW_TEXT
from specdec.view.text import WORD_JOINER
from specdec.view.tree import Picture, TreeNode

COLUMN_UNITS, LANE_UNITS, ROW_GAP_UNITS = 84, 76, 20
_EDGE_COLOR = "#94a3b8"
_FONT_UNITS = 22


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
    tops = _row_tops(picture)
    nodes = [_vis_node(node, tops[node.row], ink, clickable) for node in picture.nodes]
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


def picture_height_px(picture: Picture, width_px: int = 730) -> int:
    """Return the height at which a picture that fills `width_px` is seen whole."""
    units = sum(picture.lanes_per_row) * LANE_UNITS + len(picture.lanes_per_row) * ROW_GAP_UNITS
    return round(units * width_px / ((picture.num_columns + 1.5) * COLUMN_UNITS)) + 20


def _row_tops(picture: Picture) -> list[int]:
    tops, top = [], 0
    for lanes in picture.lanes_per_row:
        tops.append(top)
        top += lanes * LANE_UNITS + ROW_GAP_UNITS
    return tops


def _vis_node(node: TreeNode, top: int, ink: Ink, clickable: bool) -> dict[str, Any]:
    look = LOOKS.get(node.status) if node.status else None
    color = look.color if look else SHADOW_TEXT
    hollow = node.status in (TokenStatus.DISCARDED, TokenStatus.PENDING)
    vis: dict[str, Any] = {
        "id": node.id,
        "x": node.column * COLUMN_UNITS,
        "y": top + node.lane * LANE_UNITS,
        "fixed": True,
        "label": node.label,
        "shape": look.shape if look else "dot",
        "size": round(node.size, 1),
        "opacity": round(node.opacity, 2),
        "color": _colors(color, hollow),
        "borderWidth": 2,
        # Said of every node: what an update leaves out stays as it was.
        "shapeProperties": {"borderDashes": [4, 4] if hollow else False},
        "font": {
            "color": ink.text,
            "size": _FONT_UNITS,
            "vadjust": -4,
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
    bottom = tops[-1] + (picture.lanes_per_row[-1] - 1) * LANE_UNITS + LANE_UNITS // 2
    corners = [(-1.5 * COLUMN_UNITS, -LANE_UNITS // 2), (right, bottom)]
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
