"""What a server may do wrong, by name: the table that `test_fault_table` goes through.

A fault is given the handler of a request and the answer that would be right.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import quote

from tests.targets.server.fault_server import Fault, Handler, events

KEY = "csk-4f7a91-Very+Secret/0123456789"
HUGE = "1" + "0" * 400
DEEP = 100_000
BOMB_BYTES = 400 << 20
MEGABYTE = b" " * (1 << 20)


def body(text: str | bytes, status: int = 200, **headers: str) -> Fault:
    return lambda handler, good: handler.answer(text, status, **headers)


def refusal(words: Any, status: int = 400, **headers: str) -> Fault:
    said = {"error": {"message": words}}
    return lambda handler, good: handler.answer(json.dumps(said), status, **headers)


def changed(change: Callable[[dict], Any]) -> Fault:
    """Spoil the right answer: `change` alters it, or returns what stands in its place.

    Of a stream every event is changed. Texts between « and » go out without quotes.
    """

    def fault(handler: Handler, good: Any) -> None:
        parts = good if isinstance(good, list) else [good]
        spoilt = []
        for part in parts:
            instead = change(part)
            text = json.dumps(part if instead is None else instead, ensure_ascii=False)
            spoilt.append(text.replace('"«', "").replace('»"', ""))
        if isinstance(good, list):
            handler.answer(events(spoilt), type="text/event-stream")
        else:
            handler.answer(spoilt[0])

    return fault


def field(name: str, value: Any) -> Fault:
    return changed(lambda answer: answer.update({name: value}))


def choice(name: str, value: Any) -> Fault:
    def change(answer: dict) -> None:
        for one in answer["choices"]:
            one[name] = value

    return changed(change)


def logprob(value: Any) -> Fault:
    """Write `value` as the log-probability of every alternative."""

    def change(answer: dict) -> None:
        for one in answer["choices"]:
            for top in filter(None, one.get("logprobs", {}).get("top_logprobs", ())):
                top.update(dict.fromkeys(top, value))
            for top in filter(None, one.get("prompt_logprobs") or ()):
                for entry in top.values():
                    entry["logprob"] = value

    return changed(change)


def token(name: str) -> Fault:
    """Call every alternative `name`."""

    def change(answer: dict) -> None:
        for one in answer["choices"]:
            logprobs = one.get("logprobs", {})
            logprobs["top_logprobs"] = [{name: -0.5} for _ in logprobs.get("tokens", ())]
            if one.get("prompt_logprobs"):
                number = name.removeprefix("token_id:")
                entries = [{number: {"logprob": -0.5}} for _ in one["prompt_logprobs"][1:]]
                one["prompt_logprobs"] = [None, *entries]

    return changed(change)


def pieces(*parts: bytes, times: int = 1, pause_s: float = 0.0, **headers: str) -> Fault:
    """Send a body without a length, piece by piece, and hang up."""

    def fault(handler: Handler, good: Any) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        first, *others = parts
        handler.wfile.write(first)
        for _ in range(times):
            for part in others or [first]:
                handler.wfile.write(part)
                time.sleep(pause_s)

    return fault


def raw(data: bytes, times: int = 1, pause_s: float = 0.0) -> Fault:
    """Send bytes in place of an HTTP answer, and hang up."""

    def fault(handler: Handler, good: Any) -> None:
        handler.close_connection = True
        for _ in range(times):
            handler.wfile.write(data)
            time.sleep(pause_s)

    return fault


def silence(handler: Handler, good: Any) -> None:
    handler.close_connection = True
    time.sleep(1.0)


def truncated(handler: Handler, good: Any) -> None:
    handler.close_connection = True
    text = json.dumps(good)
    handler.answer(text[: len(text) // 2], content_length=str(len(text)))


@cache
def bomb(size: int, wbits: int) -> bytes:
    """Return `size` blanks, packed; it takes a moment, so have it made beforehand."""
    packer = zlib.compressobj(1, wbits=wbits)
    return b"".join(packer.compress(MEGABYTE) for _ in range(size >> 20)) + packer.flush()


def packed_bomb(status: int, encoding: str) -> Fault:
    data = bomb(BOMB_BYTES, 31 if encoding == "gzip" else 15)
    return body(data, status, content_encoding=encoding)


def nested(opening: str, closing: str = "") -> str:
    return opening * DEEP + closing * DEEP


FAULTS: dict[str, Fault] = {
    # --- size -----------------------------------------------------------------------------
    "a body without end": pieces(b'{"a": "', MEGABYTE, times=400),
    "an endless list": pieces(b"[", b"[]," * (1 << 18), times=200),
    "an endless list of numbers": pieces(b"[", b"1," * (1 << 18), times=200),
    "an endless object": pieces(b"{", b'"a":{},' * (1 << 17), times=200),
    "a gzip bomb": packed_bomb(200, "gzip"),
    "a deflate bomb": packed_bomb(200, "deflate"),
    "a gzip bomb as an error": packed_bomb(500, "gzip"),
    "an error body without end": lambda h, good: (
        h.send_response(400),
        h.end_headers(),
        [h.wfile.write(MEGABYTE) for _ in range(400)],
        h.hang_up(),
    ),
    "a stream line without end": pieces(b"data: ", MEGABYTE, times=400),
    "events without end": pieces(b"", b'data: {"choices": []}\n\n' * 5000, times=400),
    "a length that is a lie": body("{}", content_length="99999999999999"),
    "a negative length": body("{}", content_length="-5"),
    "a length that is no number": body("{}", content_length="many"),
    "many headers": lambda h, good: h.answer("{}", **{f"x_{i}": "y" for i in range(500)}),
    "a header without end": raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20)),
    "continue for ever": raw(b"HTTP/1.1 100 Continue\r\n\r\n", times=60, pause_s=0.02),
    # --- depth ----------------------------------------------------------------------------
    "nested lists": body(nested("[", "]")),
    "nested objects": body(nested('{"a":', "")),
    "nested choices": changed(lambda answer: {"choices": f"«{nested('[', ']')}»"}),
    "a nested error": body(nested('{"error":'), 400),
    "a nested error under 200": body('{"error":' + "[" * 900 + "]" * 900 + "}"),
    "a nested event": pieces(b"data: " + nested("[", "]").encode() + b"\n\n"),
    # --- no JSON --------------------------------------------------------------------------
    "nothing": body(""),
    "blanks": body("   \n"),
    "null": body("null"),
    "a number": body("5"),
    "a text": body('"hello"'),
    "a list": body("[1, 2, 3]"),
    "broken JSON": body('{"choices": [{"ind'),
    "JSON and more": body("{} {}"),
    "a web page": body("<!doctype html><p>Welcome", type="text/html"),
    "binary": body(bytes(range(256)) * 40),
    "another encoding": body('{"choices": []}'.encode("utf-16")),
    "half a character": body(b'{"choices": "\xf0\x9f"}'),
    "half a pair": body('{"error": "\\ud800 ' + KEY + '"}'),
    "an unknown packing": body("{}", content_encoding="br"),
    "a broken packing": body("no gzip", content_encoding="gzip"),
    "packed twice": body(gzip.compress(gzip.compress(b"{}")), content_encoding="gzip"),
    "an integer of many digits": body('{"choices": ' + "9" * 5000 + "}"),
    # --- choices --------------------------------------------------------------------------
    "no choices": changed(lambda answer: answer.pop("choices") and None),
    "words without choices": body(json.dumps({"message": "busy " + KEY})),
    "detail without choices": body(json.dumps({"detail": [{"msg": "not now"}]})),
    "choices that are null": field("choices", None),
    "choices that are a number": field("choices", 5),
    "choices that are an object": field("choices", {"index": 0}),
    "no choice": field("choices", []),
    "choices that are null each": field("choices", [None]),
    "choices that are texts": field("choices", ["a"]),
    "too many choices": changed(lambda a: a.update(choices=a["choices"] * 3)),
    "an infinite index": choice("index", "«Infinity»"),
    "an index that is no number": choice("index", "«NaN»"),
    "a fractional index": choice("index", 0.5),
    "a negative index": choice("index", -1),
    "an index beyond": choice("index", 99),
    "a huge index": choice("index", f"«{HUGE}»"),
    "an index that is true": choice("index", True),
    "an index that is a text": choice("index", "0"),
    "no index": changed(lambda a: [c.pop("index") for c in a["choices"]] and None),
    "every index the same": choice("index", 0),
    "another model": field("model", "some-other-model"),
    "a model that is a number": field("model", 5),
    "an error beside choices": field("error", "out of memory"),
    # --- log-probabilities ----------------------------------------------------------------
    "no logprobs": changed(lambda a: [c.pop("logprobs", 0) for c in a["choices"]] and None),
    "logprobs that are null": choice("logprobs", None),
    "logprobs that are a text": choice("logprobs", "none"),
    "logprobs that are a list": choice("logprobs", []),
    "logprobs without tokens": choice("logprobs", {"top_logprobs": []}),
    "content that is a number": choice("logprobs", {"content": 5}),
    "content without alternatives": choice("logprobs", {"content": [{"id": 1}]}),
    "fewer tokens than rows": choice("logprobs", {"tokens": ["a"], "top_logprobs": []}),
    "rows that are null": choice("logprobs", {"tokens": ["a"], "top_logprobs": [None]}),
    "tokens that are numbers": choice("logprobs", {"tokens": [1], "top_logprobs": [{}]}),
    "prompt scores that are a number": choice("prompt_logprobs", 7),
    "all zero": logprob(0.0),
    "positive": logprob(0.7),
    "infinite": logprob("«Infinity»"),
    "minus infinite": logprob("«-Infinity»"),
    "not a number": logprob("«NaN»"),
    "1e400": logprob("«1e400»"),
    "-1e400": logprob("«-1e400»"),
    "10 to the 400": logprob(f"«{HUGE}»"),
    "minus 10 to the 400": logprob(f"«-{HUGE}»"),
    "fillers only": logprob(-9999.0),
    "the lowest number only": logprob(-3.4028234663852886e38),
    "null as a log-probability": logprob(None),
    "a text as a log-probability": logprob("-0.5"),
    "true as a log-probability": logprob(True),
    "a list as a log-probability": logprob([-0.5]),
    "a token of thousands of digits": token("token_id:" + "9" * 6000),
    "a negative token": token("token_id:-5"),
    "a fractional token": token("token_id:5.5"),
    "a token without a number": token("token_id:"),
    "a token in other digits": token("token_id:१२"),
    "a token beyond 2^31": token(f"token_id:{2**31}"),
    "a token far beyond the vocabulary": token("token_id:2000000000"),
    "one token for all": token("token_id:5"),
    "a token without a name": token(""),
    # --- figures beside -------------------------------------------------------------------
    "time that is a number": field("time_info", 5),
    "time that is negative": field("time_info", {"total_time": -1}),
    "time that is infinite": field("time_info", {"total_time": "«Infinity»"}),
    "time of 400 digits": field("time_info", {"total_time": f"«{HUGE}»"}),
    "usage that is a text": field("usage", "much"),
    "a negative count": field("usage", {"prompt_tokens": -5, "completion_tokens": -5}),
    "an infinite count": field(
        "usage", {"prompt_tokens": "«Infinity»", "completion_tokens": "«Infinity»"}
    ),
    "a count of 400 digits": field(
        "usage", {"prompt_tokens": f"«{HUGE}»", "completion_tokens": f"«{HUGE}»"}
    ),
    "a count that is a text": field("usage", {"prompt_tokens": "x", "completion_tokens": "x"}),
    "meta that is null": field("meta_info", None),
    # --- statuses, waits ------------------------------------------------------------------
    "wait for ages": refusal("slow down", 429, retry_after="9" * 20),
    "wait till a far year": refusal("slow", 429, retry_after="Fri, 31 Dec 9999 23:59:59 GMT"),
    "wait till no year": refusal("slow", 429, retry_after=f"Fri, 31 Dec {'9' * 19} 00:00:00 GMT"),
    "wait for less than nothing": refusal("slow", 429, retry_after="-5"),
    "wait for NaN": refusal("slow", 429, retry_after="nan"),
    "a limit of nonsense": refusal(
        "slow",
        429,
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="9" * 400 + "h",
    ),
    "a redirect": body("", 302, location=f"http://elsewhere/{KEY}"),
    "no such status": body("{}", 999),
    "nothing to say": body("", 204, content_length="0"),
    "an error that is a number": body("5", 400),
    "an error of lists": refusal([[["x"]]]),
    "an error with a cursor": refusal("\x1b[2J\x1b]0;title\x07 \u202e[red]no[/red]", 500),
    "an error page": body("<html>Bad gateway</html>", 502),
    # --- below HTTP -----------------------------------------------------------------------
    "silence": silence,
    "half an answer": truncated,
    "a dripping body": pieces(b'{"a": "', b"x", times=40, pause_s=0.03),
    "a dripping stream": pieces(b"", b": x\n", times=40, pause_s=0.03),
    "a dripping status": raw(b"H", times=40, pause_s=0.03),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a TLS alert": raw(b"\x15\x03\x01\x00\x02\x02\x46"),
    "hanging up": raw(b""),
    "an old HTTP": raw(b"HTTP/0.9 200 OK\r\n\r\n{}"),
    "a chunk of nonsense": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
    "a chunk that is negative": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}"
    ),
    # --- the key --------------------------------------------------------------------------
    "the key": refusal(f"Incorrect API key provided: {KEY}", 401),
    "the key under 200": body(json.dumps({"error": {"message": f"bad {KEY}"}})),
    "the key as text": body(f"bad key {KEY}", 401),
    "the beginning of the key": refusal(f"bad key {KEY[:14]}", 401),
    "the end of the key": refusal(f"bad key {KEY[-12:]}", 401),
    "the middle of the key": refusal(f"bad key {KEY[8:20]}", 401),
    "the key, masked": refusal(f"bad key {KEY[:7]}******{KEY[-4:]}", 401),
    "the key, shortened": refusal(f"bad key {KEY[:8]}...{KEY[-6:]}", 401),
    "the key in base64": refusal(base64.b64encode(KEY.encode()).decode(), 401),
    "the header in base64": refusal(base64.b64encode(f"Bearer {KEY}".encode()).decode(), 401),
    "the key for URLs in base64": refusal(base64.urlsafe_b64encode(KEY.encode()).decode(), 401),
    "the key in hex": refusal(KEY.encode().hex(), 401),
    "the key percent-encoded": refusal(quote(KEY, safe=""), 401),
    "the key in pieces": refusal(" ".join(KEY[i : i + 4] for i in range(0, len(KEY), 4)), 401),
    "the key in capitals": refusal(KEY.upper(), 401),
    "the key backwards": refusal(KEY[::-1], 401),
    "the key behind a long text": refusal("x " * 140 + KEY, 401),
    "the key as a model": field("model", KEY),
    "the key as an index": choice("index", KEY),
    "the key as a field": field("choices", [{KEY: 1, "index": {KEY: KEY}}]),
    "the key as a log-probability": logprob(KEY),
    "the key as a limit": refusal("slow", 429, **{f"x_ratelimit_remaining_{KEY[4:9]}": "0"}),
}
