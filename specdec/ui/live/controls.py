"""The prompt, the buttons, and the runs of this tab that they start and stop."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError
from specdec.live.pump import LiveRun, Save
from specdec.live.shelf import ModelShelf
from specdec.models.fetch import hub
from specdec.pair import check_prompt
from specdec.perform import Phase
from specdec.settings import RunConfig
from specdec.ui import kept, loaders
from specdec.ui.history.store import recall
from specdec.ui.live import motion, presentation, recipes
from specdec.ui.live.presets import EXAMPLE_PROMPTS, OPENING, STEP
from specdec.view import words
from specdec.view.facts import TextOf
from specdec.view.playback import Show

PROMPT_CHARS = 110


def current_run() -> LiveRun | None:
    """Return the run that this tab shows, going on or over."""
    live: LiveRun | None = st.session_state.get("live")
    return live


def current_show() -> Show | None:
    """Return how much of it has been shown; None until its models are open."""
    live = current_run()
    if live is None or live.performance.recorder is None or live.performance.pair is None:
        return None
    if st.session_state.get("show") is None:
        st.session_state.show = _new_show(live.performance.pair.tokenizer.token_text, None)
    show: Show = st.session_state.show
    return show


def _new_show(text_of: TextOf, speed: float | None) -> Show:
    show = Show(text_of, speed, in_beats=motion.in_beats())
    show.is_paused = motion.current() == STEP
    return show


def start(config: RunConfig, shelf: ModelShelf, save: Save) -> None:
    """Begin a run in this tab; whatever was going on in it ends."""
    live = LiveRun(
        config,
        st.session_state.prompt,
        shelf=shelf,
        save=save,
        race=bool(st.session_state.get("race")),
        is_shown=True,
        recall=recall(st.session_state.prompt),
    )
    loaders.this_tab().hold(live)
    before = current_run()
    motion.begin_run(is_first=before is None or before.run is None)
    st.session_state.before = (before, st.session_state.get("show"))
    st.session_state.refusal = ""
    st.session_state.live = live.start()
    st.session_state.show = None
    st.session_state.pop("wanted_tab", None)


def bring_back() -> None:
    """Put the run before back on the stage if this one failed before it wrote anything."""
    live, (before, show) = current_run(), st.session_state.get("before", (None, None))
    if live is None or before is None or live.is_alive or live.run is not None:
        return
    if live.performance.phase is Phase.FAILED:
        st.session_state.refusal = live.error or ""
        st.session_state.live, st.session_state.show = before, show
        st.session_state.before = (None, None)


def draw_refusal() -> None:
    """Say why the last press of Generate came to nothing; the run before stays on the stage."""
    if refusal := st.session_state.get("refusal"):
        st.error(words.plain(refusal), icon=":material/error:")


def stop() -> None:
    """End the run within a round, and what is still to be shown of it."""
    live, show = current_run(), current_show()
    if live is not None:
        live.stop()
    if show is not None:
        show.in_beats = show.is_paused = False
        show.playhead.set_speed(None)
    motion.end_slow_by_itself()


def replay() -> None:
    """Show the run once more from its beginning, at the chosen speed."""
    live = current_run()
    pair = live.performance.pair if live else None
    if pair is not None:
        st.session_state.show = _new_show(pair.tokenizer.token_text, 1.0)


def draw_controls(config: RunConfig, shelf: ModelShelf, save: Save, *, moving: bool) -> None:
    """Draw the prompt with its examples, and the buttons."""
    shown = st.session_state.get("prompt", default_prompt())
    kept.keep_unshared("prompt", shown if len(shown) > kept.MAX_PROMPT_CHARS else "")
    is_open = current_run() is None
    with st.expander(
        _one_line(shown),
        expanded=is_open,
        icon=":material/edit:",
        # Another one, and not the same closed: that would slide, and show all of it once more.
        key=f"prompt_box_{is_open}",
    ):
        recipes.draw(config, shown, disabled=moving)
        st.pills(
            "Examples",
            list(EXAMPLE_PROMPTS),
            key="example",
            on_change=_take_example,
            label_visibility="collapsed",
        )
        st.text_area(
            "Prompt",
            default_prompt(),
            key="prompt",
            bind=None if kept.unshared("prompt") else "query-params",
            height=90,
            placeholder="Ask the model something.",
            label_visibility="collapsed",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        # Not on_click: a callback would see the settings of the run before.
        pressed = st.button(
            "Generate",
            type="primary",
            icon=":material/play_arrow:",
            key="generate",
            disabled=moving,
        )
        if pressed or (st.session_state.pop("run_again", False) and not moving):
            try:
                check_prompt(st.session_state.prompt)
            except SettingsError as error:
                st.session_state.refusal = str(error)
            else:
                start(config, shelf, save)
            st.rerun()
        st.button(
            "Skip to the end" if is_run_over() and moving else "Stop",
            icon=":material/stop:",
            key="stop",
            on_click=stop,
            disabled=not moving,
            width=150,  # of the longer word, lest what stands beside it move
            help="While the run goes on: ends it within one round, and keeps what was written. "
            "While it is still shown: shows all of it.",
        )
        st.button(
            "Replay",
            icon=":material/replay:",
            key="replay",
            on_click=replay,
            disabled=moving or current_show() is None,
            help="Shows the last run again from its own recording, at the speed chosen beside.",
        )
        st.toggle(
            "Race",
            key="race",
            persist_state="session",
            disabled=moving,
            help="Afterwards the target writes its answer once more without a draft, by itself, "
            "and both are played back on one clock.",
        )
        presentation.draw_switch()
        motion.draw_choice(_take_motion)


def default_prompt() -> str:
    """Return what the prompt is before anybody typed one."""
    return kept.unshared("prompt") or EXAMPLE_PROMPTS[OPENING.prompt]


def _one_line(prompt: str) -> str:
    """Return the prompt as the line that it folds into."""
    line = " ".join(prompt.split())
    shown = line if len(line) <= PROMPT_CHARS else line[: PROMPT_CHARS - 1] + "…"
    return words.plain(f"Prompt: {shown}" if shown else "Prompt")


def _take_example() -> None:
    example = st.session_state.example
    if example:
        st.session_state.prompt = EXAMPLE_PROMPTS[example]


def _take_motion() -> None:
    show = current_show()
    if show is not None:
        show.in_beats = motion.in_beats()
        show.is_paused = motion.current() == STEP


def is_run_over() -> bool:
    """Say whether the run itself is over, shown or not."""
    live = current_run()
    return live is not None and live.performance.phase.is_over


def toggle_pause() -> None:
    """Stand still, or go on."""
    show = current_show()
    if show is not None:
        show.is_paused = not show.is_paused
        if not show.is_paused and motion.current() == STEP:
            show.is_paused, show.in_beats = False, True


def step(beats: int) -> None:
    """Go on or back by a beat and stand still there."""
    show = current_show()
    if show is not None:
        show.is_paused = True
        show.step(beats)


def draw_transport(num_shown: int, *, is_standing: bool) -> None:
    """Draw pause, a beat on or back, and the place in the run, in one line of fixed height."""
    show = current_show()
    with st.container(horizontal=True, vertical_alignment="center", key="transport"):
        st.button(
            "Play" if show and show.is_paused else "Pause",
            key="pause",
            on_click=toggle_pause,
            disabled=show is None,
            shortcut="Space",
            width=150,
        )
        st.button(
            "Beat",
            key="beat_back",
            icon=":material/skip_previous:",
            on_click=step,
            args=(-1,),
            disabled=show is None or show.place == 0,
            shortcut="Left",
        )
        st.button(
            "Beat",
            key="beat_on",
            icon=":material/skip_next:",
            on_click=step,
            args=(1,),
            disabled=show is None,
            shortcut="Right",
        )
        num_rounds = show.num_rounds if show else 0
        if show is None or not num_rounds:
            return
        if not is_standing:
            # No slider: one that follows sends late values back, which would stop the playing.
            st.progress(num_shown / num_rounds, text=f"Round {num_shown} of {num_rounds}")
            return
        st.session_state.stage_round = num_shown
        st.slider(
            "Rounds shown",
            0,
            num_rounds,
            key="stage_round",
            on_change=_take_round,
            label_visibility="collapsed",
        )


def _take_round() -> None:
    show = current_show()
    if show is not None:
        show.is_paused = True
        show.seek_round(st.session_state.stage_round)


def draw_status(config: RunConfig, shelf: ModelShelf) -> None:
    """Say in the sidebar where the target is and whether it is ready."""
    is_server = config.is_remote
    if shelf.holds(config.target, config.place):
        color, word = "green", "connected" if is_server else "ready"
    elif is_server:
        color, word = "gray", "connects with the first run"
    elif hub.is_present(config.target):
        color, word = "gray", "opens with the first run"
    else:
        color, word = "orange", "is fetched with the first run"
    where = "behind a server" if is_server else "on this machine"
    loaded = shelf.loaded(config.target, config.place)
    if loaded is not None and loaded.runs_on:
        where += f" ({loaded.runs_on})"
    if config.rtt_ms:
        where += f", with an emulated link of {config.rtt_ms:.0f} ms"
    st.sidebar.caption(f":{color}-badge[{word}] " + words.plain(f"Target {config.target} {where}."))
