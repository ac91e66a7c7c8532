"""Where a stopwatch may be put: what a redraw of the stage is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

Part = Literal["whole", "tree", "text", "charts"]
Watch = Callable[[Part], AbstractContextManager[None]]
"""Entered where a part of a redraw begins, left where it ends; "whole" is around the others."""


def unwatched(part: Part) -> AbstractContextManager[None]:
    """Watch nothing."""
    return nullcontext()
