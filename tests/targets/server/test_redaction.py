"""The key in every spelling that servers echo; what stays and what a terminal would obey."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.targets.server.redaction import STRUCK, Redactor

KEY = "sk-proj-9f+quite/Secret_44"


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        KEY[:11],
        KEY[-11:],
        KEY[6:18],
        KEY.swapcase(),
        KEY[::-1],
        "-".join(KEY),
        KEY[:5] + "****" + KEY[-4:],
        KEY[:9] + "..." + KEY[-4:],
        KEY.encode().hex(),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        base64.b64encode(f"user:{KEY}".encode()).decode()[8:],
        json.dumps(KEY).replace("/", "\\/"),
        "".join(f"\\u{ord(c):04x}" for c in KEY),
        "".join(f"%{ord(c):02x}" for c in KEY),
    ],
)
def test_no_echo_of_a_key_passes(echo):
    shown = Redactor(KEY)(f"Incorrect API key provided: {echo}. Look at your account.")
    assert STRUCK in shown
    assert shown.startswith("Incorrect API key provided: ")
    assert shown.endswith("Look at your account.")
    plain = "".join(filter(str.isalnum, shown.casefold()))
    letters = "".join(filter(str.isalnum, KEY.casefold()))
    assert not [i for i in range(len(letters) - 7) if letters[i : i + 8] in plain]


@given(st.text(min_size=8, max_size=40), st.text(max_size=60), st.text(max_size=60))
def test_a_whole_key_never_passes_whatever_stands_around_it(key, before, after):
    shown = Redactor(key)(before + key + after, limit=10_000)
    assert shown.isprintable()
    if len([c for c in key if c.isalnum()]) >= 8:
        assert key not in shown


def test_an_innocent_sentence_stays():
    said = "This model's maximum context length is 2048 tokens, however you requested 5000."
    assert Redactor(KEY)(said) == said
    assert Redactor(None)(said) == said


@pytest.mark.parametrize("key", ["x", "EMPTY", "token-abc"])
def test_a_short_key_does_no_harm(key):
    assert "context length" in Redactor(key)("context length of 5")


def test_what_a_terminal_would_obey_is_spelled_out():
    shown = Redactor(None)("a\x1b[2J\u202eb\nc\ud800")
    assert shown == "a\\x1b[2J\\u202eb c\\ud800"


def test_it_shows_its_key_nowhere():
    redactor = Redactor(KEY)
    assert KEY not in repr(redactor)
    assert len(redactor("x" * 1000)) == 300
