"""What leads back to the live page: an address with the settings, and what none may hold."""

from __future__ import annotations

from dataclasses import fields

import pytest
from streamlit.testing.v1 import AppTest

from specdec.settings import RunConfig
from specdec.ui.kept import MAX_PROMPT_CHARS


def make_address(config: RunConfig, prompt: str):
    """Run `address_of` in a session; return the address and what the session keeps."""

    def script(config, prompt):
        import streamlit as st

        from specdec.ui.kept import address_of

        st.session_state.found = dict(address_of(config, prompt))

    app = AppTest.from_function(script, args=(config, prompt)).run()
    assert not app.exception
    held = {key: value for key, value in app.session_state.unshared.items() if value}
    return app.session_state.found, held


def test_every_setting_of_a_run_is_in_the_address_or_in_the_session():
    config = RunConfig(draft="suffix", num_draft_tokens=9, temperature=0.25, rtt_ms=10.0)
    address, held = make_address(config, "the tin & the ant")
    assert (address["k"], address["temperature"], address["link"]) == (
        "9",
        "0.25",
        "same city (10 ms)",
    )
    assert address["prompt"] == "the tin & the ant"
    assert held == {}
    told = {"num_draft_tokens": "k", "rtt_ms": "link"}
    untold = {"backend", "device", "jitter_ms"}  # of the machine; of its owner
    names = {told.get(field.name, field.name) for field in fields(RunConfig)} - untold
    assert set(address) <= {*names, "prompt"}
    unlike = RunConfig(
        target="toy",
        draft="ngram",
        one_row=True,
        num_draft_tokens=9,
        temperature=0.25,
        top_k=5,
        top_p=0.5,
        max_tokens=12,
        seed=4,
        rtt_ms=10.0,
        policy="hf",
        tree="2-2-1",
        rule="block",
    )
    address, held = make_address(unlike, "p")
    assert {*address, *held} == {*names, "prompt"}


@pytest.mark.parametrize(
    ("change", "prompt", "name"),
    [
        ({"target": "@cerebras", "draft": "ngram"}, "p", "target"),
        ({"target": "/home/somebody/model", "draft": "ngram"}, "p", "target"),
        ({"draft": "/home/somebody/draft"}, "p", "draft"),
        ({"rtt_ms": 7.5}, "p", "rtt_ms"),
        ({"tree": "5-1"}, "p", "tree"),
        ({}, "p" * (MAX_PROMPT_CHARS + 1), "prompt"),
    ],
)
def test_what_no_address_may_hold_is_kept_in_the_session(change, prompt, name):
    address, held = make_address(RunConfig(**change), prompt)
    assert list(held) == [name]
    assert name not in address
    assert held[name] not in " ".join(address.values())
