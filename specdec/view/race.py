"""Speculative and plain decoding, each measured by itself, played back on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.runs.recorder import Frame
from specdec.runs.speedup import Speedup, interval_words
from specdec.view.facts import TextOf
from specdec.view.playback import Show
from specdec.view.run_view import RunView


@dataclass(frozen=True, slots=True)
class Lap:
    """How far a runner is: tokens written, seconds of its own clock, and whether it is there."""

    num_tokens: int
    seconds: float
    is_over: bool

    @property
    def tokens_per_s(self) -> float | None:
        return self.num_tokens / self.seconds if self.seconds > 0 else None


class Race:
    """Two recordings that are shown from the same moment on at the same speed."""

    def __init__(
        self, text_of: TextOf, runners: Sequence[Sequence[Frame]], speed: float | None
    ) -> None:
        self._runners = runners
        self._shows = [Show(text_of, speed) for _ in runners]

    def advance(self, now_s: float) -> None:
        """Show what is due at `now_s` (monotonic)."""
        for show, frames in zip(self._shows, self._runners, strict=True):
            show.advance(frames, now_s)

    @property
    def views(self) -> list[RunView]:
        return [show.view for show in self._shows]

    @property
    def is_over(self) -> bool:
        pairs = zip(self._shows, self._runners, strict=True)
        return all(show.is_at_end(frames) for show, frames in pairs)

    def laps(self) -> list[Lap]:
        """Return where each runner is; the time of one that has arrived stands still."""
        laps = []
        for show, frames in zip(self._shows, self._runners, strict=True):
            over = show.is_at_end(frames)
            end_s = frames[-1].time_s if frames else 0.0
            seconds = end_s if over else show.playhead.place_s
            laps.append(Lap(show.view.text.num_tokens, seconds, over))
        return laps


def result_words(speculative: Lap, plain: Lap, link: str, speedup: Speedup | None) -> str:
    """Say what each took, prompt included, and the one speed-up that the whole page gives.

    A ratio of two times that were measured once each would be a second and a worse one.
    """
    over = f" over the {link} link" if link else ""
    said = (
        f"Speculative decoding wrote {speculative.num_tokens} tokens in "
        f"{speculative.seconds:.1f} s{over}, plain decoding {plain.num_tokens} in "
        f"{plain.seconds:.1f} s."
    )
    if speedup is None:
        return said
    return f"{said} The speed-up, as above: {interval_words(speedup.over_link)} times."
