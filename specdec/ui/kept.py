"""What a visitor set on the live page, kept while another page is looked at.

Streamlit forgets a widget that is not drawn. What may be shared travels in the address of the link
back to the live page; a server, a model that was typed in and a very long prompt stay in the
session.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from specdec.pair import draft_choices, target_choices
from specdec.settings import RunConfig, Settings, is_endpoint
from specdec.ui.live import presets
from specdec.ui.live.presets import LINKS, TREES

_HELD_AS = {"link": "rtt_ms"}
_LOOKS = ("motion", "present")
"""What the address says of how a run is shown, whichever it is."""
MAX_PROMPT_CHARS = 1500
"""A longer prompt is no part of an address: servers and messengers cut them off."""


def keep_live(config: RunConfig, prompt: str, defaults: RunConfig, default_prompt: str) -> None:
    """Remember what the live page is set to; its address tells what is not as by default."""
    usual = _settings_of(defaults, default_prompt)
    settings = _settings_of(config, prompt)
    st.session_state.live_address = {
        name: text
        for name, text in settings.items()
        if text != usual.get(name) and not unshared(_HELD_AS.get(name, name))
    } | {name: st.query_params[name] for name in _LOOKS if name in st.query_params}


def bring_back_live() -> None:
    """Go to the live page as it was where the back button leads to an address without settings.

    Streamlit leaves such an entry behind when it turns from the live page to another.
    """
    is_fresh = "target" not in st.session_state  # which is forgotten on every other page
    if is_fresh and live_address() and not live_address().keys() & st.query_params.to_dict():
        st.switch_page("streamlit_app.py", query_params=live_address())


def live_address() -> Mapping[str, str]:
    """Return the parameters of the address that leads back to the live page as it was."""
    address: Mapping[str, str] = st.session_state.get("live_address", {})
    return address


def keep_history(address: Mapping[str, str]) -> None:
    """Remember which runs the history page shows."""
    st.session_state.history_address = address


def history_address() -> Mapping[str, str]:
    """Return the parameters of the address that leads back to them."""
    address: Mapping[str, str] = st.session_state.get("history_address", {})
    return address


def address_of(config: RunConfig, prompt: str) -> Mapping[str, str]:
    """Return the address of the live page with the settings and the prompt of a run.

    What no address may hold, or no list offers, is kept in the session instead; what is as by
    default needs no word, once the session has forgotten what was set before.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    drafts = draft_choices(config.target)
    keep_unshared("target", "" if config.target in _shared_targets() else config.target)
    keep_unshared("draft", "" if config.draft in drafts else config.draft)
    keep_unshared("rtt_ms", "" if config.rtt_ms in LINKS.values() else str(config.rtt_ms))
    keep_unshared("tree", "" if config.tree in TREES.values() else config.tree)
    keep_unshared("prompt", prompt if len(prompt) > MAX_PROMPT_CHARS else "")
    usual = _settings_of(presets.opening(Settings.from_environment().run), "")
    for name in usual:  # Streamlit remembers what is bound to an address from page to page
        st.session_state.pop(name, None)
    return {
        name: text
        for name, text in _settings_of(config, prompt).items()
        if text != usual.get(name) and not unshared(_HELD_AS.get(name, name))
    } | {name: text for name, text in live_address().items() if name in _LOOKS}


def _settings_of(config: RunConfig, prompt: str) -> Mapping[str, str]:
    """Return the widgets' values as an address has them."""
    links = {rtt_ms: name for name, rtt_ms in LINKS.items()}
    trees = {tree: name for name, tree in TREES.items()}
    settings = {
        "target": config.target,
        "draft": config.draft,
        "k": str(config.num_draft_tokens or ""),
        "policy": config.policy,
        "tree": trees.get(config.tree, config.tree),
        "temperature": f"{config.temperature:g}",
        "top_p": f"{config.top_p:g}",
        "top_k": str(config.top_k),
        "max_tokens": str(config.max_tokens),
        "link": links.get(config.rtt_ms, f"{config.rtt_ms:g} ms"),
        "seed": str(config.seed),
        "one_row": str(config.one_row).lower(),
        "rule": config.rule,
        "prompt": prompt,
    }
    return {name: text for name, text in settings.items() if text}


def _shared_targets() -> set[str]:
    return {name for name in target_choices() if not is_endpoint(name)}


def keep_unshared(key: str, value: str) -> None:
    """Keep a value that stands in no address; the empty text for one that does."""
    st.session_state.setdefault("unshared", {})[key] = value


def unshared(key: str) -> str:
    """Return a value that stands in no address, the empty text if there is none."""
    value: str = st.session_state.get("unshared", {}).get(key, "")
    return value
