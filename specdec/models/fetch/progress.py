"""How long work on models reports itself: bytes done, bytes in all (or None), and words."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None, str], None]
"""Called from the working thread only; whatever it raises stops the work cleanly."""

CONNECTING = "connecting to the server"
LOADING = "loading the weights"
COMPILING = "compiling the kernels"
"""Words that say which step the work has come to; before the first of them it is fetching."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """Report to nobody."""
