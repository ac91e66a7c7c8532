"""What can be drawn of a run so far; grows frame by frame, so an update never starts over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

from specdec.metrics import RollingWindow, WindowStats, summarise
from specdec.records import Drafted, FinishReason, RoundResult, RunSummary, TokenStatus
from specdec.runs.recording import Frame
from specdec.view.facts import TextOf
from specdec.view.text import TokenText

_UNFINISHED: Mapping[str, Any] = {
    "num_prompt_tokens": 0,
    "prefill_s": 0.0,
    "finish_reason": FinishReason.STOPPED,
}


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
        self.summary = summarise([], **_UNFINISHED)
        """The totals of the rounds so far; the engine's own once it has ended."""
        self.changes: list[int] = []
        """The rounds from which on K, the temperature or the drafter was another one."""
        self.text = TokenText(text_of)
        self._window = RollingWindow()
        self._num_ended = 0

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
                self.summary = _plus(self.summary, summarise([frame.event], **_UNFINISHED))
                self._num_ended += _is_rejection(frame.event)
                self.points.append(Point(frame.event.round, self._window.add(frame.event)))
                self.text.push(frame.event.tokens, frame.pieces, frame.event.round + 1)
            case RunSummary():
                self.pending = None
                self.summary = frame.event
                self.text.end("".join(frame.pieces))

    @property
    def mean_acceptance(self) -> float | None:
        """Return α, as `mean_acceptance` of the rounds would."""
        accepted = self.summary.num_accepted_draft_tokens
        return accepted / (accepted + self._num_ended) if accepted + self._num_ended else None

    @property
    def stats(self) -> WindowStats | None:
        """Return the figures of the last rounds."""
        return self.points[-1].stats if self.points else None


def _settings(result: RoundResult) -> tuple[int, float, str]:
    return result.num_draft_tokens, result.temperature, result.drafter


def _is_rejection(result: RoundResult) -> bool:
    return result.final is not None and result.final.status is TokenStatus.RESAMPLED


def mean_acceptance(rounds: Sequence[RoundResult]) -> float | None:
    """Return α: of the positions that were tested, the share at which a draft was accepted."""
    accepted = sum(r.num_accepted for r in rounds)
    ended = sum(map(_is_rejection, rounds))
    return accepted / (accepted + ended) if accepted + ended else None


def _plus(one: RunSummary, other: RunSummary) -> RunSummary:
    """Add two summaries up, count by count, so that each round costs the same."""
    total: dict[str, Any] = {}
    for name in (field.name for field in fields(RunSummary)):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, tuple):
            total[name] = tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))
        elif name == "ttft_s":
            total[name] = b if a is None else a
        else:
            total[name] = a + b if isinstance(a, int | float) else a
    return RunSummary(**total)
