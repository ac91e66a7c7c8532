"""What a run and the page that shows it tell each other, so that neither is in the other's way.

A browser on the same cores takes them from the models. So a run waits until the page stands before
anything is measured, and the page waits with a redraw until a draft is on its way to a target
across a link, when the models have nothing to do here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PAGE_SETTLES_S = 1.0
"""How long a browser is busy with tree and charts that are new to it."""
PAGE_WAIT_S = 3.0
"""After which a run begins all the same: nobody may be looking at its tab."""
_POLL_S = 0.05


class PageHandshake:
    """Between the thread of one run and the script runs of the page that shows it."""

    def __init__(self, *, is_shown: bool) -> None:
        """Prepare for a page, or for none."""
        self._stands = threading.Event()
        self._drawn_at_s: float | None = None
        self._call_leaves = threading.Condition()
        if not is_shown:
            self._stands.set()

    def drawn(self, now_s: float) -> None:
        """Take note that the page was drawn at `now_s` (monotonic): work for the browser, now."""
        if self._drawn_at_s is None:
            self._drawn_at_s = now_s

    def asked(self, now_s: float) -> None:
        """Take note that the browser asks for a picture at `now_s`.

        The first one is work for it, on the cores that the models need; asking again some time
        later says that it is done.
        """
        if self._drawn_at_s is not None and now_s - self._drawn_at_s >= PAGE_SETTLES_S:
            self._stands.set()

    def taken_down(self) -> None:
        """Take note that something else stands where the page will be: it is built anew then."""
        self._drawn_at_s = None
        self._stands.clear()

    @property
    def stands(self) -> bool:
        """Say whether the browser has built the page."""
        return self._stands.is_set()

    def await_page(self, look_up: Callable[[], None]) -> None:
        """Let the browser finish building the page, whose work would be in the figures.

        `look_up` is called now and then; what it raises ends the wait.
        """
        end_s = time.monotonic() + PAGE_WAIT_S
        while not self._stands.wait(_POLL_S) and time.monotonic() < end_s:
            look_up()

    def call_leaves(self) -> None:
        """Tell whoever waits that a draft is leaving for the target."""
        with self._call_leaves:
            self._call_leaves.notify_all()

    def await_call(self, timeout_s: float) -> None:
        """Wait until a draft leaves, `timeout_s` at most."""
        with self._call_leaves:
            self._call_leaves.wait(timeout_s)
