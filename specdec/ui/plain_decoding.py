"""Plain decoding of a run's own target, made when the page is asked for it: offer and race."""

from __future__ import annotations

import time

import streamlit as st

from specdec.live.pump import LiveRun
from specdec.runs.speedup import speedup_of
from specdec.ui import panels
from specdec.view import words
from specdec.view.playback import REDRAW_EVERY_S
from specdec.view.race import Race, result_words

_RACE_SPEED = 1.0
_TEXT_HEIGHT_PX = 220


def offer(live: LiveRun, tab: str, why: str) -> None:
    """Offer to decode plainly now; `tab` is opened again when that has begun."""
    st.caption(why)
    if st.button("Run plain decoding now", key=f"plain_for_{tab}", icon=":material/timer:"):
        st.session_state.wanted_tab = tab
        live.decode_plainly()
        st.rerun()


def draw_race(live: LiveRun, tab: str) -> None:
    """Draw both runs side by side on one clock, once there are two."""
    made = live.performance
    if made.plain is None or made.recorder is None or made.pair is None:
        offer(
            live,
            tab,
            "The target writes its answer once more without a draft, by itself on this machine "
            "and over the same link; then both are played back on one clock.",
        )
        return
    text_of = made.pair.tokenizer.token_text
    runners = (made.recorder.frames, made.plain.frames)
    if st.session_state.get("race_of") is not made.plain:
        st.session_state.race_of = made.plain
        st.session_state.race_shown = Race(text_of, runners, None)
        st.session_state.race_shown.advance(time.monotonic())
    if st.button("Play the race", key="play_race", icon=":material/flag:"):
        st.session_state.race_shown = Race(text_of, runners, _RACE_SPEED)
    race: Race = st.session_state.race_shown
    every_s = None if race.is_over else REDRAW_EVERY_S
    st.fragment(_draw_lanes, run_every=every_s)(live, race)


def _draw_lanes(live: LiveRun, race: Race) -> None:
    was_over = race.is_over
    race.advance(time.monotonic())
    if race.is_over and not was_over:
        st.rerun(scope="app")
    made = live.performance
    assert made.recorder is not None
    assert made.plain is not None
    lanes = (("Speculative decoding", made.recorder), ("Plain decoding", made.plain))
    for index, column in enumerate(st.columns(2)):
        name, recorder = lanes[index]
        lap, view = race.laps()[index], race.views[index]
        total = sum(len(result.emitted) for result in recorder.rounds)
        with column:
            st.markdown(f"**{name}**")
            speed = "" if lap.tokens_per_s is None else f", {lap.tokens_per_s:.1f} tokens/s"
            st.progress(
                min(1.0, lap.num_tokens / max(1, total)),
                text=f"{lap.num_tokens} tokens in {lap.seconds:.1f} s{speed}",
            )
            panels.draw_race_text(view, f"race_{index}", _TEXT_HEIGHT_PX)
    if race.is_over:
        speculative, plain = race.laps()
        speedup = None if live.run is None else speedup_of(live.run)
        said = result_words(speculative, plain, made.link_kind, speedup)
        st.markdown(words.plain(said))
    if live.config.temperature > 0:
        st.caption("Above temperature 0 the texts differ by chance; both follow the target.")
