"""What can be drawn of a run so far; grows frame by frame, so an update never starts over."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.metrics import RollingWindow, WindowStats
from specdec.records import Drafted, RoundResult, RunSummary
from specdec.ui.facts import TextOf
from specdec.ui.recording import Frame
from specdec.ui.token_text import TokenText


@dataclass(frozen=True, slots=True)
class Point:
    """The rolling window as it stood after one round."""

    round: int
    stats: WindowStats


class RunView:
    """Rounds, text and rolling figures of the frames pushed so far."""

    def __init__(self, text_of: TextOf) -> None:
        self.text_of = text_of
        self.rounds: list[RoundResult] = []
        self.points: list[Point] = []
        self.pending: Drafted | None = None
        self.summary: RunSummary | None = None
        self.changes: list[int] = []
        """The rounds from which on K, the temperature or the drafter was another one."""
        self.text = TokenText(text_of)
        self._window = RollingWindow()

    def push(self, frame: Frame) -> None:
        """Take one frame in."""
        match frame.event:
            case Drafted():
                self.pending = frame.event
            case RoundResult():
                self.pending = None
                if self.rounds and _settings(self.rounds[-1]) != _settings(frame.event):
                    self.changes.append(frame.event.round)
                self.rounds.append(frame.event)
                self.points.append(Point(frame.event.round, self._window.add(frame.event)))
                self.text.push(frame.event.tokens, frame.pieces, frame.event.round + 1)
            case RunSummary():
                self.pending = None
                self.summary = frame.event
                self.text.end("".join(frame.pieces))

    @property
    def stats(self) -> WindowStats | None:
        """Return the figures of the last rounds."""
        return self.points[-1].stats if self.points else None


def _settings(result: RoundResult) -> tuple[int, float, str]:
    return result.num_draft_tokens, result.temperature, result.drafter
