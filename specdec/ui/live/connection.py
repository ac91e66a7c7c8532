"""What the sidebar tells about a target behind a server, and what it would do by itself."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError, SpecdecError
from specdec.live.pump import LiveRun
from specdec.live.shelf import ModelShelf
from specdec.settings import RunConfig
from specdec.targets.server.endpoints import find_endpoint
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import (
    StreamingBaseline,
    measure_streaming,
    speculation_words,
    streaming_verdict,
)
from specdec.view import words


def draw_connection(
    config: RunConfig, shelf: ModelShelf, live: LiveRun | None, *, moving: bool
) -> None:
    """Draw the facts of a connected server, and the button that times its own streaming.

    Before that, say if the key it needs is missing.
    """
    try:
        endpoint = find_endpoint(config.target)
        if endpoint is not None:
            endpoint.key()
    except SettingsError as error:
        st.sidebar.warning(words.plain(str(error)), icon=":material/key:")
        return
    loaded = shelf.loaded(config.target, config.place)
    if loaded is None or loaded.remote is None:
        return
    target = loaded.remote
    with st.sidebar.expander("Connection", icon=":material/lan:"):
        for finding in target.status(config.sampler):
            st.caption(f"**{finding.question.capitalize()}** {words.plain(finding.answer)}")
        if st.button(
            "Time streaming",
            key="time_streaming",
            disabled=moving or not st.session_state.prompt.strip(),
            help="Streams the answer to this prompt from the same server without speculation, and "
            "measures its tokens per second: what you would get without a draft.",
        ):
            _measure(target, config)
        _draw_streaming(config, live)
        with st.popover("What the probe found"):
            for finding in target.findings:
                st.caption(f"**{words.plain(finding.question)}** {words.plain(finding.answer)}")


def _measure(target: RemoteTarget, config: RunConfig) -> None:
    prompt = [{"role": "user", "content": st.session_state.prompt}]
    prompt_ids = target.tokenizer.apply_chat_template(prompt)
    try:
        with st.spinner("Streaming an answer"):
            streaming = measure_streaming(target, prompt_ids, config.sampler, config.max_tokens)
    except SpecdecError as error:
        st.error(words.plain(str(error)))
    else:
        st.session_state.streaming = (config.target, streaming)


def _draw_streaming(config: RunConfig, live: LiveRun | None) -> None:
    of_target, streaming = st.session_state.get("streaming", (None, None))
    if of_target != config.target or not isinstance(streaming, StreamingBaseline):
        return
    st.caption(
        f"Streaming by itself: {streaming.tokens_per_s:.1f} tokens/s over {streaming.num_tokens} "
        f"tokens, the first after {streaming.ttft_s:.2f} s (measured)."
    )
    if streaming.speculation is not None:
        st.caption(words.plain(speculation_words(streaming.speculation)))
    run = None if live is None else live.run
    if run is not None and live is not None and live.config.target == config.target:
        speed = run.summary.tokens_per_s
        if speed is not None:
            st.caption(words.plain(streaming_verdict(speed, streaming)))
