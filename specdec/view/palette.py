"""How each status looks and what it means: a colour, and a second sign that needs no colour.

The tree, the text, the legend and the inspector all draw from this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specdec.records import TokenStatus


@dataclass(frozen=True, slots=True)
class Look:
    """The signs of one status: `glyph` stands for it, and in a token's box of the tree `sign`.

    A box needs no sign where its place or its border says enough: what was accepted stands in the
    output, solid, and what waits or was never tested has a dashed border.

    `tint` is how strongly the text behind it is coloured, in hexadecimal: what the target decided
    itself looks like text, with no more than its `underline`.
    """

    color: str
    glyph: str
    sign: str
    underline: str
    tint: str
    meaning: str


LOOKS: Mapping[TokenStatus, Look] = {
    TokenStatus.PENDING: Look(
        "#94a3b8",
        "■",
        "",
        "dashed",
        "2e",
        "drafted, and the target has not answered yet",
    ),
    TokenStatus.ACCEPTED: Look(
        "#22c55e",
        "●",
        "",
        "solid",
        "2e",
        "drafted, and it passed the target's test: it is output",
    ),
    TokenStatus.REJECTED: Look(
        "#ef4444",
        "▼",
        "▼",
        "line-through",
        "2e",
        "drafted, and it failed the target's test: it is dropped with all that follows it",
    ),
    TokenStatus.RESAMPLED: Look(
        "#f59e0b",
        "◆",
        "◆",
        "dotted",
        "00",
        "drawn by the target in place of a rejected token, from what the draft under-rated",
    ),
    TokenStatus.BONUS: Look(
        "#3b82f6",
        "★",
        "★",
        "double",
        "00",
        "drawn by the target after a fully accepted draft, for free",
    ),
    TokenStatus.DISCARDED: Look(
        "#64748b",
        "○",
        "",
        "dotted",
        "2e",
        "drafted but never tested, because one before it was rejected",
    ),
}
SHADOW_TEXT = "#808495"
"""A grey that can be read on white and on near-black."""

DRAFT_COLOR, VERIFY_COLOR, LINK_COLOR, OTHER_COLOR = "#8b5cf6", "#0ea5e9", "#f472b6", "#94a3b8"
