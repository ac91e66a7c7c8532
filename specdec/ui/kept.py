"""What a visitor set on the live page, kept while another page is looked at.

Streamlit forgets a widget that is not drawn. What may be shared travels in the address of the link
back to the live page; a server, a model that was typed in and a very long prompt stay in the
session.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

SHARED = (
    *("target", "draft", "k", "policy", "tree", "temperature", "top_p", "top_k", "max_tokens"),
    *("link", "seed", "backend", "device", "one_row", "rule", "prompt"),
)
"""Keys of the live page's widgets whose values stand in its address."""
MAX_PROMPT_CHARS = 1500
"""A longer prompt is no part of an address: servers and messengers cut them off."""


def keep_live() -> None:
    """Remember what the live page is set to, as far as that may be shared."""
    held = {key: st.session_state[key] for key in SHARED if key in st.session_state}
    st.session_state.live_address = {
        key: _text(value) for key, value in held.items() if not unshared(key)
    }


def live_address() -> Mapping[str, str]:
    """Return the parameters of the address that leads back to the live page as it was."""
    address: Mapping[str, str] = st.session_state.get("live_address", {})
    return address


def keep_unshared(key: str, value: str) -> None:
    """Keep a value that stands in no address; the empty text for one that does."""
    st.session_state.setdefault("unshared", {})[key] = value


def unshared(key: str) -> str:
    """Return a value that stands in no address, the empty text if there is none."""
    value: str = st.session_state.get("unshared", {}).get(key, "")
    return value


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
