"""A target behind a server on the page: connected, verified, and compared with its streaming."""

from __future__ import annotations

import json
import time

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from specdec.live.shelf import ModelShelf
from specdec.models.tokenizer import Tokenizer
from specdec.pair import load_model
from specdec.perform import Phase
from specdec.records import FinishReason
from specdec.ui import loaders
from specdec.ui.live.presets import LIVE
from tests.models.tiny import write_tiny_tokenizer
from tests.targets.server.toy_server import ToyServer
from tests.ui.conftest import ENTRY


@pytest.fixture
def page(httpserver, monkeypatch, tmp_path):
    st.cache_resource.clear()
    write_tiny_tokenizer(tmp_path)
    ToyServer(Tokenizer.load(tmp_path), owner="vllm").mount(httpserver)
    for field, value in (
        ("URL", httpserver.url_for("/v1")),
        ("MODEL", "toy"),
        ("TOKENIZER", str(tmp_path)),
        ("PROTOCOL", "prefixes"),
    ):
        monkeypatch.setenv(f"ENDPOINT_LAB_{field}", value)
    monkeypatch.setenv("TARGET_MODEL", "@lab")
    monkeypatch.setenv("MAX_TOKENS", "64")
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    shelf = ModelShelf(load_model)
    monkeypatch.setattr(loaders, "model_shelf", lambda: shelf)
    app = AppTest.from_file(str(ENTRY), default_timeout=30)
    app.query_params["motion"] = LIVE  # not slowly, as a first visit would be
    app.run()
    app.text_area(key="prompt").set_value("the tin")
    yield app
    if "live" in app.session_state:
        app.session_state.live.stop()
        app.session_state.live.join(10)


def said(at: AppTest) -> str:
    assert not at.exception
    return " ".join(element.value for element in (*at.markdown, *at.caption, *at.error))


def run(at: AppTest):
    at.button(key="generate").click().run()
    live = at.session_state.live
    live.join(20)
    at.run()
    at.run()
    return live


def test_a_server_is_connected_by_the_first_run_and_then_told_about(page, httpserver):
    assert "connects with the first run" in said(page)
    live = run(page)
    assert live.run.summary.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    assert live.run.backend == "prefixes"
    assert live.performance.baseline is None  # it would cost a call per token
    words = said(page)
    assert "connected" in words
    assert "**Protocol**" in words
    assert "**Round trip**" in words


def test_without_its_key_the_page_opens_and_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("TARGET_MODEL", "@cerebras")
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    monkeypatch.chdir(tmp_path)  # away from a developer's own .env
    app = AppTest.from_file(str(ENTRY), default_timeout=30)
    app.query_params["motion"] = LIVE  # not slowly, as a first visit would be
    app.run()
    assert not app.exception
    (warning,) = app.sidebar.warning
    assert "set CEREBRAS_API_KEY in .env" in warning.value.replace("\\", "")
    monkeypatch.setenv("CEREBRAS_API_KEY", "csk-1")
    assert not app.run().sidebar.warning


def test_a_wait_in_mid_run_is_shown_and_a_stop_ends_it(page, httpserver):
    run(page)  # connects
    httpserver.clear()
    httpserver.expect_request("/v1/completions").respond_with_json(
        {"error": "too many requests"}, status=429, headers={"Retry-After": "50"}
    )
    page.button(key="generate").click().run()
    live = page.session_state.live
    for _ in range(100):
        if live.waiting:
            break
        time.sleep(0.05)
    warning = page.run().warning[0].value.replace("\\", "")
    assert "(HTTP 429: too many requests). Attempt 2 of 3 follows in" in warning
    live.stop()
    live.join(5)
    assert live.performance.phase is Phase.STOPPED


def test_its_own_streaming_is_timed_when_asked_and_compared(page, httpserver):
    run(page)
    httpserver.clear()
    chunk = "data: " + json.dumps({"choices": [{"text": "the"}]}) + "\n\n"
    httpserver.expect_request("/v1/completions").respond_with_data(
        4 * chunk + "data: [DONE]\n\n", content_type="text/event-stream"
    )
    page.button(key="time_streaming").click().run()
    words = said(page)
    assert not page.error, page.error[0].value
    assert "Streaming by itself" in words
    assert "as fast as" in words


def test_after_a_failure_the_server_is_probed_anew(page, httpserver):
    run(page)
    shelf = loaders.model_shelf()
    assert shelf.holds("@lab", "auto")
    httpserver.clear()
    httpserver.expect_request("/v1/completions").respond_with_json({"error": "gone"}, status=404)
    live = run(page)
    assert live.error
    assert not shelf.holds("@lab", "auto")
    assert live.error.split(" ")[0] in said(page).replace("\\", "")
