"""A limit for what fetched and converted weights may take on the disk: `SPECDEC_CACHE_LIMIT_GB`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from specdec.errors import ModelError, SettingsError
from specdec.models.fetch.progress import Progress
from specdec.settings import variables

VARIABLE = "SPECDEC_CACHE_LIMIT_GB"
_LOOK_EVERY_S = 1.0


def limit_bytes() -> float:
    """Return the limit, infinite where none is set.

    Raises:
        SettingsError: it is no number, or below 0.
    """
    text = variables().get(VARIABLE, "").strip()
    try:
        limit = float(text or "inf")
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise SettingsError(
            f"{VARIABLE} must be a number of gigabytes, not {text!r}: correct it in .env or in "
            "the environment."
        )
    return limit * 1e9


def within_limit(progress: Progress, name: str, caches: Callable[[], Sequence[Path]]) -> Progress:
    """Return `progress`, which from now on stops the work before the caches outgrow the limit.

    Args:
        progress: of the work that fills them; what it reports in all are bytes for the disk.
        name: of what is made, for the message.
        caches: names the folders that the limit is for, all together; asked where there is one.
    """
    limit = limit_bytes()
    if math.isinf(limit):
        return progress
    folders = caches()
    at_first = sum(map(tree_bytes, folders))
    looked_at = ("", -math.inf)

    def report(done: int, total: int | None, what: str) -> None:
        nonlocal looked_at
        before, then_s = looked_at
        is_last = total is not None and done >= total
        if what != before or is_last or time.monotonic() - then_s > _LOOK_EVERY_S:
            needed = sum(map(tree_bytes, folders)) + max(0, (total or 0) - done)
            if needed > max(limit, at_first):  # what was there before is nobody's new burden
                raise ModelError(
                    f"{name} would bring the saved models to {needed / 1e9:.1f} GB, and "
                    f"{VARIABLE} allows {limit / 1e9:g}; remove models that nobody needs from "
                    f"{folders[0]}, or raise the limit."
                )
            looked_at = (what, time.monotonic())
        progress(done, total, what)

    return report


def tree_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`, some of which may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total
