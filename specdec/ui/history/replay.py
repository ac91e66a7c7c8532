"""A saved run played back: the live page's own panels, at the recorded times, from any round."""

from __future__ import annotations

import time
from itertools import chain

import streamlit as st

from specdec.records import RoundResult
from specdec.runs.replay import frames_of
from specdec.runs.run import Run
from specdec.ui import dashboard, panels, study
from specdec.view import words
from specdec.view.playback import REDRAW_EVERY_S, Show
from specdec.view.run_view import RunView

SPEEDS = {"¼×": 0.25, "½×": 0.5, "1×": 1.0, "2×": 2.0, "4×": 4.0, "8×": 8.0}
PLACE_HEIGHT_PX = 90


class Player:
    """A place in a saved run, standing still or moving on."""

    def __init__(self, run: Run) -> None:
        """Stand at the end, where everything is shown."""
        self.run = run
        self.is_playing = False
        self.speed = 1.0
        self.num_rounds = len(run.rounds)
        self._frames = frames_of(run)
        ends = (i + 1 for i, f in enumerate(self._frames) if isinstance(f.event, RoundResult))
        self._cuts = [*chain([0], ends)]
        self._cuts[-1] = len(self._frames)
        self.seek(self.num_rounds)

    @property
    def view(self) -> RunView:
        return self._show.view

    @property
    def round(self) -> int:
        """How many rounds are shown."""
        return len(self.view.rounds)

    @property
    def has_begun(self) -> bool:
        """Whether anything of a round is shown: before that the prompt was read."""
        return self.round > 0 or self.view.pending is not None

    @property
    def is_at_end(self) -> bool:
        return self._show.is_at_end(self._frames)

    def seek(self, num_rounds: int) -> None:
        """Stand still after this many rounds."""
        count = max(0, min(num_rounds, self.num_rounds))
        self.is_playing = False
        self._show = Show(self.run.token_text, None)
        self._show.advance(self._frames[: self._cuts[count]], time.monotonic())
        self._show.playhead.set_speed(0.0)

    def play(self) -> None:
        """Go on from here, from the beginning if this is the end."""
        if self.is_at_end:
            self.seek(0)
        self._show.advance(self._frames, time.monotonic())  # the time it stood still is not played
        self.is_playing = True
        self._show.playhead.set_speed(self.speed)

    def pause(self) -> None:
        self.advance()
        self.is_playing = False
        self._show.playhead.set_speed(0.0)

    def set_speed(self, speed: float) -> None:
        """Play at `speed` times the recorded one, from here on."""
        self.speed = speed
        if self.is_playing:
            self._show.playhead.set_speed(speed)

    def advance(self) -> None:
        """Show what is due by now."""
        if self.is_playing:
            self._show.advance(self._frames, time.monotonic())
            self.is_playing = not self.is_at_end


# -- on the page ---------------------------------------------------------------------------------


def player_for(run: Run, identity: object) -> Player:
    """Return this tab's player of a run; another run takes the place of the one before."""
    held = st.session_state.get("history_player")
    if held is None or held[0] != identity:
        held = st.session_state.history_player = (identity, Player(run))
        st.session_state.pop("replay_speed", None)
    player: Player = held[1]
    return player


def draw(player: Player, identity: str) -> None:
    """Draw the controls, and the panels of the live page at the place they say."""
    every_s = REDRAW_EVERY_S if player.is_playing else None
    st.fragment(_draw, run_every=every_s)(player, identity)


def _draw(player: Player, identity: str) -> None:
    was_playing = player.is_playing
    player.advance()
    if was_playing and not player.is_playing:
        st.rerun()
    _draw_place(player)
    _draw_transport(player)
    run, view = player.run, player.view
    link = run.link_kind
    panels.draw_legend()
    panels.draw_live_tree(view)
    left, right = st.columns([3, 2])
    with left:
        panels.draw_text(view, run.baseline)
        st.caption(words.plain(words.totals(view.summary)))
    with right:
        dashboard.draw_column(dashboard.gauges(view, run.baseline, link=link))
    dashboard.draw_row(dashboard.speed(view, run.baseline, link=link))
    dashboard.draw_row(dashboard.acceptance(view))
    if not player.is_playing:
        if view.rounds:
            dashboard.draw_lanes(view, link=link)
        study.draw(run, identity, link=link)


def _stand_at(player: Player, num_rounds: int) -> None:
    """Show the run up to a round, and tell that round below."""
    player.seek(num_rounds)
    _tell_round(player)


def _tell_round(player: Player) -> None:
    st.session_state.round = max(1, player.round)


def _draw_place(player: Player) -> None:
    with st.container(height=PLACE_HEIGHT_PX, border=False, key="replay_place"):
        if player.is_playing:
            # No slider: one that follows sends late values back, which would stop the playing.
            share = player.round / player.num_rounds
            told = f"Round {player.round} of {player.num_rounds}"
            st.progress(share, text=told if player.has_begun else "Reading the prompt")
            return
        st.session_state.replay_round = player.round
        st.slider(
            "Rounds shown",
            0,
            player.num_rounds,
            key="replay_round",
            on_change=lambda: _stand_at(player, st.session_state.replay_round),
            help="Drag to any round, or press the arrow keys.",
        )


def _draw_transport(player: Player) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="transport"):
        st.button(
            "Back",
            icon=":material/skip_previous:",
            key="replay_back",
            on_click=_stand_at,
            args=(player, player.round - 1),
            disabled=player.is_playing or player.round == 0,
            help="One round back.",
        )
        if player.is_playing:
            if st.button("Pause", icon=":material/pause:", key="replay_pause", type="primary"):
                player.pause()
                _tell_round(player)
                st.rerun()
        elif st.button(
            "Replay" if player.is_at_end else "Play",
            icon=":material/play_arrow:",
            key="replay_play",
            type="primary",
            help="Plays the run at its recorded times.",
        ):
            player.play()
            st.rerun()
        st.button(
            "Forward",
            icon=":material/skip_next:",
            key="replay_forward",
            on_click=_stand_at,
            args=(player, player.round + 1),
            disabled=player.is_playing or player.is_at_end,
            help="One round forward.",
        )
        speed = st.segmented_control(
            "Speed",
            list(SPEEDS),
            key="replay_speed",
            default="1×",
            required=True,
            label_visibility="collapsed",
            help="Times the recorded speed. The figures are the measured ones at any speed.",
        )
        player.set_speed(SPEEDS[speed or "1×"])
