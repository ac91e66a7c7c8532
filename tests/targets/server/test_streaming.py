"""What the user would get without speculation, measured on the same server."""

from __future__ import annotations

import json
import time

import pytest
from werkzeug import Response

from specdec.errors import TargetError
from specdec.sampling import Sampler
from specdec.targets.server.http import Connection
from specdec.targets.server.probe import probe
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import StreamingBaseline, measure_streaming, streaming_verdict
from tests.targets.server.recorded import response_of
from tests.targets.server.toy_server import ToyServer

SAMPLER = Sampler(0.7, top_p=0.9)


@pytest.fixture
def connect(httpserver, endpoint, tokenizer):
    """Return a maker of targets at the test's server, which has nothing more to say yet."""

    def make(read_timeout_s: float = 10.0) -> RemoteTarget:
        ToyServer(tokenizer, owner="vllm").mount(httpserver)
        connection = Connection(endpoint(protocol="prefixes", read_timeout_s=read_timeout_s))
        target = RemoteTarget(connection, tokenizer, probe(connection, tokenizer))
        httpserver.clear()
        return target

    return make


@pytest.fixture
def target(connect):
    return connect()


def answer_with(httpserver, *responses):
    queue = list(responses)
    httpserver.expect_request("/v1/completions").respond_with_handler(lambda r: queue.pop(0))


def events(*chunks, pause_s: float = 0.0) -> Response:
    def body():
        for chunk in chunks:
            time.sleep(pause_s)
            data = chunk if isinstance(chunk, str) else json.dumps(chunk)
            yield f"data: {data}\n\n".encode()

    return Response(body(), content_type="text/event-stream")


def text(piece: str) -> dict:
    return {"choices": [{"index": 0, "text": piece}]}


@pytest.mark.parametrize("server", ["vllm", "mlx_lm", "llama_cpp_python"])
def test_recorded_streams_are_timed_and_counted_by_their_text(httpserver, target, server):
    name = f"{server}/10_stream_true"
    body = response_of(name)["body_text"]
    answer_with(httpserver, Response(body, content_type="text/event-stream"))
    measured = measure_streaming(target, [42, 7], SAMPLER, 3)
    pieces = [
        choice["text"]
        for line in body.split("\n")
        if line.startswith("data: {")
        for choice in json.loads(line[6:])["choices"]
    ]
    assert measured.counted_by == "tokenizer"
    assert measured.num_tokens == len(target.tokenizer.encode("".join(pieces))) > 0
    assert 0 < measured.ttft_s <= measured.wall_s


def test_the_server_counts_where_it_does(httpserver, target):
    usage = {"choices": [], "usage": {"completion_tokens": 17}}
    answer_with(httpserver, events(text("the"), text(" tin"), usage, "[DONE]"))
    measured = measure_streaming(target, [42, 7], SAMPLER, 20)
    assert (measured.num_tokens, measured.counted_by) == (17, "server")


def test_time_runs_from_sending_to_the_last_token(httpserver, target):
    answer_with(httpserver, events(*[text("a")] * 4, text(""), "[DONE]", pause_s=0.1))
    began_s = time.perf_counter()
    measured = measure_streaming(target, [42, 7], SAMPLER, 4)
    until_the_end_s = time.perf_counter() - began_s
    assert measured.num_tokens == 4
    assert 0.1 <= measured.ttft_s < measured.wall_s - 0.1
    assert 0.4 <= measured.wall_s < until_the_end_s - 0.1
    assert measured.tokens_per_s == pytest.approx(4 / measured.wall_s)


def test_it_asks_for_the_same_sampling_and_the_count(httpserver, target):
    answer_with(httpserver, events(text("a")))
    measure_streaming(target, [42, 7], SAMPLER, 20)
    asked = httpserver.log[-1][0].get_json()
    assert asked == {
        "model": "toy",
        "prompt": [42, 7],
        "max_tokens": 20,
        "temperature": 0.7,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_server_without_stream_options_is_asked_without_them(httpserver, target):
    refusal = Response('{"error": "unknown field"}', 400)
    answer_with(httpserver, refusal, events(text("a")))
    assert measure_streaming(target, [42, 7], SAMPLER, 20).num_tokens == 1
    assert "stream_options" not in httpserver.log[-1][0].get_json()


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (events("[DONE]"), "streamed no token"),
        (Response('{"choices": []}', content_type="application/json"), "streamed no token"),
        (events('{"choi'), "broken JSON"),
        (events(text("a"), {"error": {"message": "out of memory"}}), r"error \(out of memory\)"),
        (Response('{"error": "Unauthorized"}', 401), "did not accept the API key"),
    ],
)
def test_a_stream_that_fails_says_how(httpserver, target, response, words):
    answer_with(httpserver, response)
    with pytest.raises(TargetError, match=words):
        measure_streaming(target, [42, 7], SAMPLER, 20)


def test_a_stream_that_drips_ends_in_time(httpserver, connect):
    target = connect(read_timeout_s=0.5)
    answer_with(httpserver, events(*[text("a")] * 40, pause_s=0.1))
    with pytest.raises(TargetError, match=r"did not answer within 0\.5 s"):
        measure_streaming(target, [42, 7], SAMPLER, 20)


def test_the_verdict_says_who_is_faster_and_by_how_much():
    streaming = StreamingBaseline(num_tokens=100, ttft_s=0.1, wall_s=2.0, counted_by="server")
    assert streaming.tokens_per_s == 50
    assert streaming_verdict(20.0, streaming) == (
        "Streaming from this server is 2.50 times as fast as speculation: "
        "20.0 against 50.0 tokens per second."
    )
    assert streaming_verdict(60.0, streaming).startswith(
        "Speculation is 1.20 times as fast as streaming from this server: 60.0 against 50.0"
    )
