"""What can be drawn of a run so far; grows frame by frame, so an update never starts over."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.metrics import RollingWindow, Totals, WindowStats
from specdec.records import Drafted, RoundResult, RunSummary
from specdec.runs.recorder import Frame
from specdec.view.beats import Beat
from specdec.view.facts import TextOf
from specdec.view.text import TokenText


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
        """The draft as far as it is there, some of it perhaps answered already."""
        self.whole: Drafted | None = None
        """All of that draft, where it is not all there yet."""
        self.has_fallen = False
        """Whether what was rejected of it has left the line of the output."""
        self.words = ""
        """What has just been seen."""
        self._totals = Totals()
        self.summary = self._totals.summary()
        """The totals of the rounds so far; the engine's own once it has ended."""
        self.changes: list[int] = []
        """The rounds from which on a setting was another one."""
        self.text = TokenText(text_of)
        self._window = RollingWindow()

    def show(self, beat: Beat) -> None:
        """Take one beat in: a frame that is complete with it, or the draft as it stands."""
        self.words = beat.words
        self.has_fallen = beat.has_fallen
        if beat.frame is not None:
            self.push(beat.frame)
        elif beat.draft is not None:
            self.pending = beat.draft
            self.whole = beat.whole

    def push(self, frame: Frame) -> None:
        """Take one frame in."""
        self.has_fallen, self.whole = False, None
        match frame.event:
            case Drafted():
                self.pending = frame.event
            case RoundResult():
                self.pending = None
                if self.rounds and self.rounds[-1].settings != frame.event.settings:
                    self.changes.append(frame.event.round)
                self.rounds.append(frame.event)
                self._totals.add(frame.event)
                self.summary = self._totals.summary()
                self.points.append(Point(frame.event.round, self._window.add(frame.event)))
                self.text.push(frame.event.tokens, frame.pieces, frame.event.round + 1)
            case RunSummary():
                self.pending = None
                self.summary = frame.event
                self.text.end("".join(frame.pieces))

    @property
    def mean_acceptance(self) -> float | None:
        """Return α: of the positions that were tested, the share at which a draft was accepted."""
        return self._totals.mean_acceptance

    @property
    def stats(self) -> WindowStats | None:
        """Return the figures of the last rounds."""
        return self.points[-1].stats if self.points else None
