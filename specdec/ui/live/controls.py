"""The prompt, the buttons, and the runs of this tab that they start and stop."""

from __future__ import annotations

import streamlit as st

from specdec.live.pump import LiveRun, Save
from specdec.live.shelf import ModelShelf
from specdec.models.fetch import hub
from specdec.settings import RunConfig
from specdec.ui import loaders
from specdec.ui.live.presets import EXAMPLE_PROMPTS, SPEEDS
from specdec.view import words
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
        st.session_state.show = Show(live.performance.pair.tokenizer.token_text, chosen_speed())
    show: Show = st.session_state.show
    return show


def chosen_speed() -> float | None:
    return SPEEDS[st.session_state.get("speed") or "Live"]


def start(config: RunConfig, shelf: ModelShelf, save: Save) -> None:
    """Begin a run in this tab; whatever was going on in it ends."""
    live = LiveRun(
        config,
        st.session_state.prompt,
        shelf=shelf,
        baselines=loaders.baselines(),
        save=save,
        race=bool(st.session_state.get("race")),
        is_shown=True,
    )
    loaders.this_tab().hold(live)
    st.session_state.live = live.start()
    st.session_state.show = None
    st.session_state.pop("wanted_tab", None)


def stop() -> None:
    """End the run within a round, and what is still to be shown of it."""
    live, show = current_run(), current_show()
    if live is not None:
        live.stop()
    if show is not None:
        show.playhead.set_speed(None)


def replay() -> None:
    """Show the run once more from its beginning, at the chosen speed."""
    live = current_run()
    pair = live.performance.pair if live else None
    if pair is not None:
        st.session_state.show = Show(pair.tokenizer.token_text, chosen_speed() or 1.0)


def draw_controls(config: RunConfig, shelf: ModelShelf, save: Save, *, moving: bool) -> None:
    """Draw the prompt with its examples, and the buttons."""
    st.session_state.setdefault("prompt", EXAMPLE_PROMPTS["Explain"])
    with st.expander(
        _one_line(st.session_state.prompt),
        expanded=current_run() is None,
        icon=":material/edit:",
    ):
        st.pills(
            "Examples",
            list(EXAMPLE_PROMPTS),
            key="example",
            on_change=_take_example,
            label_visibility="collapsed",
        )
        st.text_area(
            "Prompt",
            key="prompt",
            height=90,
            placeholder="Ask the model something.",
            label_visibility="collapsed",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        # Not on_click: a callback would see the settings of the run before.
        if st.button(
            "Generate",
            type="primary",
            icon=":material/play_arrow:",
            key="generate",
            disabled=moving,
        ):
            start(config, shelf, save)
            st.rerun()
        st.button(
            "Stop",
            icon=":material/stop:",
            key="stop",
            on_click=stop,
            disabled=not moving,
            help="Ends the run within one round; what was written is kept.",
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
            disabled=moving,
            help="Afterwards the target writes its answer once more without a draft, by itself, "
            "and both are played back on one clock.",
        )
        st.segmented_control(
            "Speed",
            list(SPEEDS),
            key="speed",
            default="Live",
            required=True,
            label_visibility="collapsed",
            on_change=_take_speed,
            help="How fast you are shown what happens. The run itself is never slowed down, and "
            "measured times are not those of the picture.",
        )


def _one_line(prompt: str) -> str:
    """Return the prompt as the line that it folds into."""
    line = " ".join(prompt.split())
    shown = line if len(line) <= PROMPT_CHARS else line[: PROMPT_CHARS - 1] + "…"
    return words.plain(f"Prompt: {shown}" if shown else "Prompt")


def _take_example() -> None:
    example = st.session_state.example
    if example:
        st.session_state.prompt = EXAMPLE_PROMPTS[example]


def _take_speed() -> None:
    show = current_show()
    if show is not None:
        show.playhead.set_speed(chosen_speed())


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
