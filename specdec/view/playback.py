"""Showing a run at a chosen speed: the engine is never waited for, and never slowed down.

Measured time is not animation time. Live, everything that has come is shown at once. In slow
motion and in a replay, events are shown when they are due by the engine's own clock, stretched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.runs.recorder import Frame
from specdec.view.beats import Score
from specdec.view.facts import TextOf
from specdec.view.run_view import RunView

REDRAW_EVERY_S = 0.3
REDRAW_COST_S = 0.2
"""What a browser without a graphics card computes per redraw, in seconds of one core, measured."""
REDRAW_SHARE = 0.09
"""How much of this machine the page may take from the models while it shows a run as it happens.

Half of that would leave more to the models, and nothing to be seen on a small machine.
"""
BEAT_S = 0.7
"""How long one beat of slow motion lasts, in seconds."""
CALL_WAIT_S = 0.3
"""How long a redraw is put off until a draft is on its way to a target across a link, at most."""
FIRST_ROUND_WAIT_S = 0.4
"""How long one is put off until there is a first round to show, at most; clicks wait as long."""


def live_pace_s(num_cpus: int) -> float:
    """Return the seconds between two redraws of a run that is shown as it happens.

    What the browser computes, models on the same cores go without, and so would the figures.
    """
    return max(REDRAW_EVERY_S, REDRAW_COST_S / (REDRAW_SHARE * num_cpus))


Charts = tuple[Callable[[], None], ...]
"""Charts with the data they will show, still to be drawn."""


class Turns:
    """The panels of charts that are made anew in turn: one at each redraw, the others kept.

    They cost a browser as much as tree and text together, and say the same a second later.
    """

    def __init__(self) -> None:
        self._panels: list[Charts] = []
        self._turn = 0

    def take(self, makers: Sequence[Callable[[], Charts]]) -> list[Charts]:
        """Return every panel; the first time all are new, then the one whose turn it is."""
        if not self._panels:
            self._panels = [make() for make in makers]
        else:
            self._panels[self._turn] = makers[self._turn]()
            self._turn = (self._turn + 1) % len(makers)
        return list(self._panels)


class Playhead:
    """A place on the engine's clock that moves on at `speed`; None shows what has come."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._position_s = 0.0
        self._seen_at_s: float | None = None

    def set_speed(self, speed: float | None) -> None:
        """Go on from here at another speed."""
        self._speed = speed

    def position_s(self, now_s: float, end_s: float) -> float:
        """Return the place on the clock at `now_s` (monotonic), at most `end_s`."""
        if self._speed is None:
            self._position_s = end_s
        elif self._seen_at_s is not None:
            moved_s = (now_s - self._seen_at_s) * self._speed
            self._position_s = min(end_s, self._position_s + moved_s)
        self._seen_at_s = now_s
        return self._position_s

    def stand_still(self, now_s: float) -> None:
        """Let time go by that is not played."""
        self._seen_at_s = now_s

    @property
    def place_s(self) -> float:
        """Return the place on the clock as it was last asked for."""
        return self._position_s


class Show:
    """The part of a recording that has been shown so far, a place among its beats.

    By the clock, what is due is shown; in even beats, one at a time; paused, what is asked for.
    """

    def __init__(self, text_of: TextOf, speed: float | None, *, in_beats: bool = False) -> None:
        self.view = RunView(text_of)
        self.playhead = Playhead(speed)
        self.turns = Turns()
        self.in_beats = in_beats
        self.is_paused = False
        self.place = 0
        """How many beats have been shown."""
        self._score = Score(text_of)
        self._text_of = text_of
        self._beat_at_s: float | None = None

    def advance(self, frames: Sequence[Frame], now_s: float) -> None:
        """Show every frame that is due at `now_s` (monotonic), or the next beat if it is."""
        self._score.extend(frames)
        if not frames or self.is_paused:
            self.playhead.stand_still(now_s)
        elif self.in_beats:
            if self._beat_at_s is None or now_s - self._beat_at_s >= 0.9 * BEAT_S:
                self._beat_at_s = now_s
                self.step(1)
        else:
            due_s = self.playhead.position_s(now_s, frames[-1].time_s)
            beats = self._score.beats
            place = self.place
            for index in range(self.place, len(beats)):
                frame = beats[index].frame
                if frame is not None and frame.time_s > due_s:
                    break
                if frame is not None:
                    place = index + 1
            self.seek(place)

    def step(self, beats: int) -> None:
        """Go on, or back, by so many beats."""
        self.seek(self.place + beats)

    def seek(self, place: int) -> None:
        """Show exactly the first `place` beats."""
        place = max(0, min(place, len(self._score.beats)))
        if place < self.place:
            self.view, self.place = RunView(self._text_of), 0
        for index in range(self.place, place):
            beat = self._score.beats[index]
            if beat.frame is not None or index == place - 1:  # nobody sees what lies between
                self.view.show(beat)
        self.place = place

    def seek_round(self, num_rounds: int) -> None:
        """Show so many whole rounds."""
        self.seek(self._score.round_ends[max(0, min(num_rounds, self.num_rounds))])

    @property
    def num_rounds(self) -> int:
        """How many rounds have come so far, shown or not."""
        return len(self._score.round_ends) - 1

    def is_at_end(self, frames: Sequence[Frame]) -> bool:
        self._score.extend(frames)
        return self.place >= len(self._score.beats)
