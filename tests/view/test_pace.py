"""How often a run is redrawn."""

from __future__ import annotations

import pytest

from specdec.view.playback import REDRAW_COST_S, REDRAW_EVERY_S, REDRAW_SHARE, Turns, live_pace_s


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 8, 64])
def test_redraws_take_their_share_of_the_machine_at_most(num_cpus: int) -> None:
    pace_s = live_pace_s(num_cpus)
    assert pace_s >= REDRAW_EVERY_S
    assert REDRAW_COST_S / (pace_s * num_cpus) <= REDRAW_SHARE * (1 + 1e-9)


def test_a_large_machine_is_redrawn_as_often_as_the_eye_wants() -> None:
    assert live_pace_s(16) == REDRAW_EVERY_S


def test_charts_are_made_anew_in_turn_and_all_of_them_at_first() -> None:
    turns = Turns()
    shown = [turns.take([lambda part=part, at=at: (part, at) for part in "abc"]) for at in range(5)]
    assert shown == [
        [("a", 0), ("b", 0), ("c", 0)],
        [("a", 1), ("b", 0), ("c", 0)],
        [("a", 1), ("b", 2), ("c", 0)],
        [("a", 1), ("b", 2), ("c", 3)],
        [("a", 4), ("b", 2), ("c", 3)],
    ]
