"""What the pump has seen: the engine's events with the texts they complete, on one clock."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.records import Drafted, Event, Prefilled, RoundResult, RunSummary
from specdec.runs.run import TokenStream


@dataclass(frozen=True, slots=True)
class Frame:
    """One event with the texts that became complete with it."""

    event: Event
    pieces: tuple[str, ...] = ()


class Recording:
    """The frames of one generator, in a list that only grows."""

    def __init__(self, stream: TokenStream) -> None:
        self.frames: list[Frame] = []
        self._stream = stream

    def add(self, event: Event) -> None:
        """Append an event, with the text that its tokens complete."""
        pieces: tuple[str, ...] = ()
        if isinstance(event, RoundResult):
            pieces = tuple(self._stream.push(event.emitted))
        elif isinstance(event, RunSummary):
            pieces = (self._stream.rest(),)
        self.frames.append(Frame(event, pieces))


def frame_time_s(frame: Frame) -> float:
    """Return when an event came, on the engine's own clock, from the start of the run."""
    match frame.event:
        case Prefilled():
            return frame.event.prefill_s
        case Drafted():
            return frame.event.started_s + frame.event.draft_s
        case RoundResult():
            return frame.event.started_s + frame.event.wall_s
        case RunSummary():
            return frame.event.wall_s
