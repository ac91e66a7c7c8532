"""Whatever a server does: an answer or one sentence, in time, with the key in neither."""

from __future__ import annotations

import json
import logging
import pickle
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from werkzeug import Response

from specdec.acceptance import Draft
from specdec.engine import RoundSettings, generate
from specdec.errors import TargetError
from specdec.records import FinishReason, RoundResult
from specdec.sampling import Sampler
from specdec.targets.server.faults import HttpError, Quota, retry_after_s
from specdec.targets.server.http import MAX_ATTEMPTS, MAX_WAIT_S, Connection
from specdec.targets.server.probe import probe
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.rows import TokenNames
from specdec.targets.server.servers import make_protocol
from specdec.targets.server.wire import Dialect
from tests.made_runs import BlurredDrafter
from tests.targets.server.raw_server import answer, deaf_server, free_port, raw_server, reset
from tests.targets.server.toy_server import ToyServer

KEY = "csk-4f7a91-very-secret"
SLASHED = "sk/9f+quite/secret"
PATH = "/v1/completions"


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def connect(endpoint):
    """Return a maker of connections whose waits take no time."""

    def make(**changes) -> Connection:
        clock = Clock()
        return Connection(endpoint(**changes), KEY, sleep=clock.sleep, clock=clock)

    return make


@pytest.fixture
def dialect(tokenizer):
    return Dialect("toy", TokenNames(tokenizer), 20)


def in_turn(*responses: Response):
    """Return a handler that gives one response after the other, the last one for ever."""
    queue = list(responses)
    return lambda request: queue.pop(0) if len(queue) > 1 else queue[0]


def said(body, status: int, **headers: str) -> Response:
    text = body if isinstance(body, str) else json.dumps(body)
    return Response(text, status, {k.replace("_", "-"): v for k, v in headers.items()})


GOOD = said({"choices": []}, 200)


# --- below HTTP -----------------------------------------------------------------------------


def test_a_refused_connection_says_to_start_the_server(connect):
    with pytest.raises(TargetError, match="refuses connections; start the server"):
        connect(url=f"http://127.0.0.1:{free_port()}").post(PATH, {})


def test_a_connection_that_is_not_accepted_ends_in_time(endpoint):
    with deaf_server() as url:
        connection = Connection(endpoint(url=url, connect_timeout_s=0.2), sleep=lambda s: None)
        began_s = time.perf_counter()
        with pytest.raises(TargetError, match="did not accept a connection in time"):
            connection.post(PATH, {})
        assert time.perf_counter() - began_s < 5


def test_an_unknown_host_is_named(connect):
    with pytest.raises(TargetError, match=r"no host called nowhere\.invalid"):
        connect(url="http://nowhere.invalid").post(PATH, {})


def test_a_reset_connection_is_tried_again(connect):
    def behave(connection, number):
        if number < 3:
            reset(connection, number)
        else:
            answer(connection, b'{"fine": true}')

    with raw_server(behave) as url:
        assert connect(url=url).post(PATH, {}).body["fine"]


def test_a_server_that_always_resets_is_given_up(connect):
    with raw_server(reset) as url, pytest.raises(TargetError, match="it may have crashed"):
        connect(url=url).post(PATH, {})


def test_a_cut_off_answer_is_tried_again(connect):
    def behave(connection, number):
        answer(connection, b'{"fine": true}', length=99 if number == 1 else None)

    with raw_server(behave) as url:
        assert connect(url=url).post(PATH, {}).body["fine"]


def test_a_silent_server_ends_in_time_and_is_not_asked_again(endpoint):
    calls = []

    def behave(connection, number):
        calls.append(number)
        time.sleep(0.6)

    with raw_server(behave) as url:
        connection = Connection(endpoint(url=url, read_timeout_s=0.3))
        with pytest.raises(TargetError, match=r"did not answer within 0\.3 s"):
            connection.post(PATH, {})
    assert calls == [1]


@pytest.mark.parametrize(
    "beginning",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"a": "',
        b'HTTP/1.1 200 OK\r\n\r\n{"a": "',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
        b"HTTP/1.1 ",
    ],
    ids=["body", "body without end", "chunk", "headers", "status"],
)
def test_a_dripping_server_ends_in_time(endpoint, beginning):
    def behave(connection, number):
        connection.sendall(beginning)
        for _ in range(40):
            time.sleep(0.05)
            connection.sendall(b"x")

    with raw_server(behave) as url:
        connection = Connection(endpoint(url=url, read_timeout_s=0.4))
        began_s = time.perf_counter()
        with pytest.raises(TargetError, match=r"did not answer within 0\.4 s"):
            connection.post(PATH, {})
        assert time.perf_counter() - began_s < 1.5


# --- HTTP statuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "rejected the request"),
        (401, "did not accept the API key; check the variable"),
        (402, "asks for payment"),
        (403, "does not allow this with this API key"),
        (404, "check the endpoint's model and URL"),
        (413, "shorten the prompt or draft fewer tokens"),
        (422, "rejected the request"),
    ],
)
@pytest.mark.parametrize("shape", ["nested", "flat"])
def test_a_refusal_is_not_repeated_and_says_what_to_do(httpserver, connect, status, words, shape):
    body = {"message": "no luck", "type": "some_error", "code": "some_code"}
    httpserver.expect_request(PATH).respond_with_json(
        {"error": body} if shape == "nested" else body, status=status
    )
    with pytest.raises(HttpError, match=rf"{words}.*\(HTTP {status}: no luck\)"):
        connect().post(PATH, {})
    assert len(httpserver.log) == 1


RATE_LIMITED = {
    "nested": {"error": {"message": "too many requests", "code": 429}},
    "flat": {"message": "too many requests", "code": "request_quota_exceeded"},
}


@pytest.mark.parametrize("shape", ["nested", "flat"])
def test_a_rate_limit_waits_as_long_as_asked_in_view_and_outside_the_call(
    httpserver, connect, shape
):
    limited = said(RATE_LIMITED[shape], 429, retry_after="3")
    httpserver.expect_request(PATH).respond_with_handler(in_turn(limited, GOOD))
    waits = []
    reply = connect().post(PATH, {}, waits.append)
    assert [wait.remaining_s for wait in waits] == [3, 2, 1]
    assert "too many requests" in waits[0].reason
    assert (waits[0].attempt, waits[0].max_attempts) == (1, MAX_ATTEMPTS)
    assert (reply.retry_s, reply.call_s) == (3.0, 0.0)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "120ms"}, 0.12),
        ({"retry-after": "6m0s"}, 360.0),
        ({"retry-after": "1h2m3.5s"}, 3723.5),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Fri, 31 Dec " + "9" * 19 + " 00:00:00 GMT"}, None),
        ({"retry-after": "१२"}, None),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"},
            360.0,
        ),
        ({}, None),
        (
            {
                "x-ratelimit-remaining-requests-minute": "0",
                "x-ratelimit-reset-requests-minute": "11.5",
                "x-ratelimit-remaining-tokens-minute": "900",
                "x-ratelimit-reset-tokens-minute": "50",
            },
            11.5,
        ),
    ],
)
def test_the_wish_to_wait_is_read_in_every_form(headers, wait_s):
    assert retry_after_s(headers) == wait_s


def test_the_wish_to_wait_may_be_a_date():
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after_s({"retry-after": format_datetime(then, usegmt=True)}) == pytest.approx(
        30, abs=2
    )


def test_too_long_a_wait_is_an_error_at_once(httpserver, connect):
    limited = said(RATE_LIMITED["flat"], 429, retry_after=str(MAX_WAIT_S + 1))
    httpserver.expect_request(PATH).respond_with_handler(in_turn(limited))
    with pytest.raises(HttpError, match="no more requests for now"):
        connect().post(PATH, {})
    assert len(httpserver.log) == 1


def test_whoever_watches_a_wait_can_end_it(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_handler(in_turn(said("", 429, retry_after="30")))

    def leave(waiting):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect().post(PATH, {}, leave)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_a_bounded_number_of_times(httpserver, connect, status):
    httpserver.expect_request(PATH).respond_with_handler(in_turn(said("", status)))
    with pytest.raises(HttpError, match=f"HTTP {status}"):
        connect().post(PATH, {})
    assert len(httpserver.log) == MAX_ATTEMPTS


def test_waits_without_a_wish_double(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_handler(
        in_turn(said("", 500), said("", 503), GOOD)
    )
    assert connect().post(PATH, {}).retry_s == pytest.approx(0.5 + 1.0)


def test_the_remaining_quota_is_shown(httpserver, connect):
    headers = {
        "x_ratelimit_remaining_requests_minute": "4",
        "x_ratelimit_remaining_tokens_minute": "29000",
    }
    httpserver.expect_request(PATH).respond_with_handler(in_turn(said({}, 200, **headers), GOOD))
    connection = connect()
    assert connection.quota is None
    for _ in range(2):  # an answer without the headers forgets nothing
        connection.post(PATH, {})
        assert str(connection.quota) == "4 requests per minute, 29,000 tokens per minute left"
    assert Quota.from_headers({"x-ratelimit-remaining-day": "many"}) is None


def test_a_redirect_is_named_and_not_followed(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_data("", 307, {"Location": "http://other/"})
    with pytest.raises(TargetError, match="redirects to another address"):
        connect().post(PATH, {})


# --- bodies ---------------------------------------------------------------------------------


def test_a_web_page_is_no_answer(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_data("<!doctype html><p>Welcome")
    with pytest.raises(TargetError, match="a web page instead of JSON"):
        connect().post(PATH, {})


def test_a_web_page_is_not_quoted_in_an_error(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_data("<html>Bad gateway</html>", 404)
    with pytest.raises(HttpError, match=r"\(HTTP 404\)\.$"):
        connect().post(PATH, {})


def test_broken_json_is_no_answer(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_data('{"choices": [{"ind')
    with pytest.raises(TargetError, match=r"broken JSON \(18 bytes\)"):
        connect().post(PATH, {})


def test_broken_json_may_be_deep(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_data("[" * 100_000)
    with pytest.raises(TargetError, match="broken JSON"):
        connect().post(PATH, {})


def test_an_error_under_a_good_status_is_an_error(httpserver, connect):
    httpserver.expect_request(PATH).respond_with_json({"error": {"message": "no provider"}})
    with pytest.raises(TargetError, match=r"although its status was 200 \(no provider\)"):
        connect().post(PATH, {})


# --- in the middle of a run -----------------------------------------------------------------


def positive(row, token, count):
    return {int(i): 0.7 for i in np.argsort(-row)[:count]}


def not_a_number(row, token, count):
    return {int(i): float("nan") for i in np.argsort(-row)[:count]}


def zeros(row, token, count):
    return {int(i): 0.0 for i in np.argsort(-row)[:count]}


@pytest.fixture
def running(httpserver, endpoint, tokenizer):
    """Return a function that runs, on time that passes only by waiting, while `fault(server)`
    strikes after the second round."""

    def run(fault, **changes):
        server = ToyServer(tokenizer, owner="vllm")
        server.mount(httpserver)
        clock = Clock()
        asked = endpoint(protocol="prefixes", **changes)
        connection = Connection(asked, KEY, sleep=clock.sleep, clock=clock)
        target = RemoteTarget(connection, tokenizer, probe(connection, tokenizer))
        settings = RoundSettings(BlurredDrafter(target.vocab_size), 2, Sampler(0.0))
        events = []
        for event in generate([42, 7], target, settings, max_tokens=40, clock=clock):
            events.append(event)
            if sum(isinstance(e, RoundResult) for e in events) == 2:
                fault(server)
        return events[-1], [e for e in events if isinstance(e, RoundResult)]

    return run


def swap(httpserver, response):
    def strike(server):
        httpserver.clear_all_handlers()
        httpserver.expect_request(PATH).respond_with_handler(in_turn(response))

    return strike


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said({"error": "generation thread died"}, 404), "generation thread died"),
        (said("Internal Server Error", 500), "failed; look at its log"),
        (said({"detail": "Unauthorized"}, 401), "did not accept the API key"),
        (said("<html>", 200), "web page"),
        (said('{"choi', 200), "broken JSON"),
        (said({"choices": []}, 200), "0 of 3 prompts"),
        (said({"choices": [{}, {}, {}]}, 200), "has not the shape"),
        (said([1], 200), "has not the shape"),
        (said("", 200), "has not the shape"),
        (
            said({"choices": [{"index": i, "logprobs": None} for i in range(3)]}, 200),
            "did not score the position after the context",
        ),
    ],
)
def test_a_fault_in_mid_run_ends_it_with_its_tokens_kept(httpserver, running, answer, words):
    summary, rounds = running(swap(httpserver, answer))
    assert summary.finish_reason is FinishReason.ERROR
    assert words in summary.error
    assert len(rounds) == 2
    assert summary.num_tokens == sum(len(result.emitted) for result in rounds) > 0


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (positive, "positive log-probability"),
        (not_a_number, "where a log-probability should stand"),
        (zeros, "add up to 20"),
    ],
)
def test_impossible_numbers_in_mid_run_end_it(running, numbers, words):
    summary, rounds = running(lambda server: setattr(server, "_top", numbers))
    assert summary.finish_reason is FinishReason.ERROR
    assert words in summary.error
    assert len(rounds) == 2


def test_a_server_that_goes_away_in_mid_run_ends_it(httpserver, running):
    def strike(server):
        if httpserver.is_running():
            httpserver.stop()

    try:
        summary, rounds = running(strike)
    finally:
        httpserver.start()
    assert summary.finish_reason is FinishReason.ERROR
    assert "refuses connections; start the server" in summary.error
    assert len(rounds) == 2


def test_retries_are_no_verification(running):
    struck = []

    def strike(server):
        queue = [] if struck else [said("", 503, retry_after="20")]
        struck.append(server)
        answer = server._answer
        server._answer = lambda request, handle: queue.pop() if queue else answer(request, handle)

    summary, _ = running(strike)
    assert summary.finish_reason is FinishReason.LENGTH
    assert (summary.verify_s, summary.wall_s) == (0.0, 20.0)


# --- the key --------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(httpserver, connect, caplog):
    caplog.set_level(logging.DEBUG)
    answer = said({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)
    httpserver.expect_request(PATH).respond_with_handler(in_turn(answer))
    connection = connect()
    with pytest.raises(HttpError) as caught:
        connection.post(PATH, {"prompt": "Hi"})
    assert httpserver.log[0][0].headers["Authorization"] == f"Bearer {KEY}"
    shown = [str(caught.value), repr(caught.value), caught.value.said, caplog.text]
    shown += [repr(connection), repr(vars(connection)), repr(connection.endpoint)]
    shown += [repr(vars(connection._session))]
    assert "[key]" in str(caught.value)
    assert not [text for text in shown if KEY in text]
    with pytest.raises(TypeError):
        pickle.dumps(connection._bearer)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, json.dumps({"message": "x" * 290 + " " + SLASHED})),  # cut in the key's middle
        (401, json.dumps({"message": SLASHED}).replace("/", "\\/")),
        (401, f"bad key {SLASHED}"),
        (200, json.dumps({"error": SLASHED})),
        (200, json.dumps({"choices": [{"index": SLASHED}]})),
    ],
    ids=["cut", "escaped", "text", "under 200", "of another shape"],
)
def test_the_key_is_struck_out_of_every_answer(httpserver, endpoint, dialect, status, body):
    httpserver.expect_request(PATH).respond_with_data(body, status)
    protocol = make_protocol("prompts", dialect)
    with pytest.raises(TargetError) as caught:
        protocol.ask(Connection(endpoint(), SLASHED), [42, 7], Draft())
    assert SLASHED[:4] not in str(caught.value)


def test_the_key_stays_out_of_a_failed_run(httpserver, running):
    answer = said({"error": f"bad key {KEY}"}, 401)
    summary, rounds = running(swap(httpserver, answer))
    assert "[key]" in summary.error
    assert KEY not in repr(summary) + repr(rounds)


def test_without_a_key_none_is_sent_not_even_from_netrc(
    httpserver, endpoint, tmp_path, monkeypatch
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    httpserver.expect_request(PATH).respond_with_json({})
    Connection(endpoint()).post(PATH, {})
    assert "Authorization" not in httpserver.log[0][0].headers
