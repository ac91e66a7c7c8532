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
    """The rolling window as it stood after one round, and the pace of the run so far."""

    round: int
    stats: WindowStats
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What was set anew in mid-run, in a few words, and the first round that ran with it."""

    round: int
    words: str

    @classmethod
    def between(cls, before: RoundResult, after: RoundResult) -> Change | None:
        """Return what is different in the settings of two rounds, if anything is."""
        old, new = before.settings, after.settings
        said = []
        if new.num_draft_tokens not in (None, old.num_draft_tokens):
            said.append(f"K {new.num_draft_tokens}")
        if old.policy != new.policy:
            said.append(f"policy {new.policy}")
        if old.rule != new.rule:
            said.append(f"rule {new.rule}")
        if old.temperature != new.temperature:
            said.append(f"temperature {new.temperature:g}")
        if (old.top_k, old.top_p) != (new.top_k, new.top_p):
            said.append(f"top-k {new.top_k}, top-p {new.top_p:g}")
        if old.drafter != new.drafter:
            said.append(new.drafter)
        return cls(after.round, ", ".join(said)) if said else None


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
        self.changes: list[Change] = []
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
                if self.rounds and (change := Change.between(self.rounds[-1], frame.event)):
                    self.changes.append(change)
                self.rounds.append(frame.event)
                self._totals.add(frame.event)
                self.summary = self._totals.summary()
                stats = self._window.add(frame.event)
                self.points.append(Point(frame.event.round, stats, self.summary.tokens_per_s))
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
