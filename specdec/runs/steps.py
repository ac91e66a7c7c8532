"""What a run does before its first token, step by step, and how long each step takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """In the order in which they come; a run takes those that it needs."""

    CONNECT = "connect to the server"
    FETCH = "fetch the weights"
    LOAD = "load the weights"
    COMPILE = "compile the kernels"
    PAGE = "build the page"
    READ = "read the prompt"
    BASELINE = "time plain decoding"


@dataclass(frozen=True, slots=True)
class Taken:
    """A step, the seconds it took so far, and whether it is the present one."""

    step: Step
    seconds: float
    is_present: bool


class Steps:
    """A stopwatch over the steps of one run: one at a time, and none once it has ended.

    A step that comes again (the draft's weights after the target's) goes on where it was. Written
    by one thread, read by any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at no step."""
        self._clock = clock
        self._done: dict[Step, float] = {}
        self._present: tuple[Step, float] | None = None
        self._has_ended = False

    def begin(self, step: Step) -> None:
        """Go over to `step`; nothing happens where it is the present one."""
        if self._has_ended or (self._present is not None and self._present[0] is step):
            return
        self._close()
        self._present = (step, self._clock())

    def end(self) -> None:
        """Stop for good: the first token is about to come, or the run is over."""
        self._close()
        self._has_ended = True

    @property
    def taken(self) -> tuple[Taken, ...]:
        """Return the steps so far, in order."""
        done, present = dict(self._done), self._present
        if present is not None:
            step, began_s = present
            done[step] = done.get(step, 0.0) + self._clock() - began_s
        now = present[0] if present is not None else None
        return tuple(Taken(one, done[one], one is now) for one in Step if one in done)

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def _close(self) -> None:
        if self._present is not None:
            step, began_s = self._present
            self._present = None
            self._done[step] = self._done.get(step, 0.0) + self._clock() - began_s
