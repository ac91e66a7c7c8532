"""Tokens as chips: what stands in a box, and how wide the box will be.

The canvas measures text only while it draws, so widths are estimated here, by kinds of letters, on
the safe side for the sans-serif faces that browsers take. One unit is one pixel where a picture is
`PICTURE_PX` wide.
"""

from __future__ import annotations

from unicodedata import combining, east_asian_width

from specdec.records import TokenStatus
from specdec.view.palette import LOOKS
from specdec.view.text import PICTURE_PX

FITTING_SHARE = 1.1
"""vis-network fits a picture with a tenth of its size around it."""
FRAME_UNITS = round(PICTURE_PX / FITTING_SHARE)
TEXT_UNITS, PADDING_UNITS, GUTTER_UNITS = 16, 6, 16
"""How high text is, what is left of it and right of it in a box, and what is between columns."""
LABEL_CHARS, FEWEST_CHARS = 12, 4
"""A longer text is cut; where fewer letters would be left, chips stand in two lines in turn."""

_NARROW, _WIDE = frozenset("iljftrI.,:;'`|!()[]{}/\\-\" "), frozenset("mwMWQ@%—…◆★▼○")


def text_units(text: str) -> float:
    """Return how wide a text is drawn, at most."""
    return TEXT_UNITS * sum(map(_share, text))


def _share(letter: str) -> float:
    """Return a letter's width by its height."""
    if combining(letter):
        return 0.0
    if east_asian_width(letter) in "WF":
        return 1.05
    if letter in _NARROW:
        return 0.32
    if letter in _WIDE:
        return 0.9
    return 0.7 if letter.isupper() else 0.56


def shortened(text: str, num_chars: int) -> str:
    """Return a text of at most so many letters."""
    return text if len(text) <= num_chars else text[: max(1, num_chars - 1)] + "…" * (num_chars > 1)


def signed(text: str, status: TokenStatus | None) -> str:
    """Return a chip's text with the sign of its status, for those who see no colours."""
    sign = LOOKS[status].sign if status else ""
    return f"{sign} {text}" if sign else text


def chip_units(label: str) -> float:
    """Return how wide the box of a label is."""
    return text_units(label) + 2 * PADDING_UNITS
