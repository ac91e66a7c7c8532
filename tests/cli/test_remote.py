"""The command line against a server: its waits are told, its streaming is the baseline."""

from __future__ import annotations

import json
import re

import pytest
from pytest_httpserver import RequestMatcher
from werkzeug import Request, Response

from specdec import perform
from specdec.cli.main import main
from specdec.engine import generate
from specdec.models.tokenizer import Tokenizer
from specdec.saved.trace import read_trace
from tests.models.tiny import write_tiny_tokenizer
from tests.targets.server.toy_server import ToyServer

KEY = "csk-4f7a91-very-secret"
RUN = ["generate", "the tin", "--target", "@lab", "--temperature", "0", "--max-tokens", "12"]


@pytest.fixture
def server(httpserver, monkeypatch, tmp_path) -> ToyServer:
    """Return the server behind "@lab"; it knows the key."""
    write_tiny_tokenizer(tmp_path)
    server = ToyServer(Tokenizer.load(tmp_path), owner="vllm")
    for field, value in (
        ("URL", httpserver.url_for("/v1")),
        ("MODEL", "toy"),
        ("TOKENIZER", str(tmp_path)),
        ("PROTOCOL", "prefixes"),
        ("KEY_VARIABLE", "LAB_KEY"),
    ):
        monkeypatch.setenv(f"ENDPOINT_LAB_{field}", value)
    monkeypatch.setenv("LAB_KEY", KEY)
    return server


class Streaming(RequestMatcher):
    """Matches what asks for a stream."""

    def match(self, request: Request) -> bool:
        return super().match(request) and request.get_json().get("stream", False)


def stream(httpserver, events: str) -> None:
    """Answer what asks for a stream; to be called before the server is mounted."""
    httpserver.expect(Streaming("/v1/completions")).respond_with_data(
        events, content_type="text/event-stream"
    )


def test_a_run_is_compared_with_the_servers_streaming_and_not_decoded_plainly(
    server, httpserver, capsys
):
    chunk = {"choices": [{"text": "the"}], "usage": {"completion_tokens": 12}}
    stream(httpserver, f"data: {json.dumps(chunk)}\n\n")
    server.mount(httpserver)
    assert main(RUN) == 0
    printed = capsys.readouterr().out
    assert "one call per token" not in printed
    assert "waiting for another attempt" not in printed
    assert re.search("as fast as (streaming|speculation)", printed)


def test_a_server_that_does_not_stream_spoils_nothing(server, httpserver, capsys):
    stream(httpserver, "")
    server.mount(httpserver)
    assert main(RUN) == 0
    assert "Its streaming could not be timed. lab streamed no token" in capsys.readouterr().out


def test_check_prints_what_the_probe_found(server, httpserver, capsys):
    server.mount(httpserver)
    assert main(["check", "--target", "@lab", "--temperature", "0"]) == 0
    printed = capsys.readouterr().out
    for line in ("server: vLLM at localhost", "protocol: prefixes", "output: exact", "round trip:"):
        assert f"    {line}" in printed


def test_a_wait_in_mid_run_is_told_and_the_key_is_in_nothing_that_is_left(
    server, httpserver, capsys, monkeypatch, tmp_path
):
    server.mount(httpserver)
    refusals = [Response(f'{{"error": "busy, {KEY}"}}', 503, {"Retry-After": "0.1"})]

    def strike_and_generate(*args, **options):
        answer = server._answer
        server._answer = lambda *asked: refusals.pop() if refusals else answer(*asked)
        return generate(*args, **options)

    monkeypatch.setattr(perform, "generate", strike_and_generate)
    saved = tmp_path / "run"
    assert main([*RUN, "--no-baseline", "--save", str(saved)]) == 0
    printed = capsys.readouterr()
    assert "(HTTP 503: busy, [key]). Attempt 2 of 3 follows in 0.1 s." in printed.err
    assert "waiting for another attempt" in printed.out
    assert read_trace(saved).summary.retry_s >= 0.1
    assert KEY not in printed.out + printed.err + saved.read_text()
