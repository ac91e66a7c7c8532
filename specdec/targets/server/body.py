"""How much a server may answer, and reading no more than that.

What a request can need follows from the request: its prompts, the tokens it asks for and the
alternatives of each. An answer that holds more is no answer, whatever it would say, and is given up
before it fills the memory; so is one that unpacks to more.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from urllib3.response import BaseHTTPResponse

from specdec.targets.server.reader import Limits

ERROR_BYTES = 1 << 16
LISTING = Limits(8 << 20, 1 << 20)
"""For a list of models; the longest known one has a megabyte."""
_ANY_ANSWER = Limits(1 << 20, 1 << 18)
_PER_PROMPT = Limits(1 << 15, 1 << 10)
_PER_TOKEN = Limits(1 << 10, 1 << 6)
"""A token written as text, escaped, as bytes and as an event of its own."""
_PER_ALTERNATIVE = Limits(1 << 9, 1 << 6)
_WHOLE_VOCABULARY = 1 << 18
_CHUNK = 1 << 16
_COUNTS = ("logprobs", "top_logprobs", "prompt_logprobs", "n_probs", "top_logprobs_num")
_SCORES_PROMPT = ("echo", "prompt_logprobs", "return_logprob")


class Oversized(Exception):
    """The body holds more than it may."""


class Undecodable(Exception):
    """The body is packed in a way that was not asked for, or is damaged."""


def limits_of(request: Mapping[str, Any]) -> Limits:
    """Return what an answer to `request` can need, generously."""
    prompts = _prompts(request)
    sampling = request.get("sampling_params", {})
    asked = (request.get(name) for name in ("max_tokens", "n_predict"))
    num_written = next((count for count in asked if count), None)
    num_written = num_written or sampling.get("max_new_tokens", 1)
    counts = [request.get(name) for name in _COUNTS]
    num_alternatives = max((count for count in counts if type(count) is int), default=0)
    if -1 in counts:
        num_alternatives = _WHOLE_VOCABULARY
    num_read = sum(map(len, prompts))
    num_written *= len(prompts)
    num_scored = num_written + num_read * any(map(request.get, _SCORES_PROMPT))
    # A request for both kinds of scores has them answered twice.
    shares = (
        (1, _ANY_ANSWER),
        (len(prompts), _PER_PROMPT),
        (num_read + num_written, _PER_TOKEN),
        (2 * num_scored * (num_alternatives + 1), _PER_ALTERNATIVE),
    )
    return Limits(
        sum(times * share.num_bytes for times, share in shares),
        sum(times * share.num_values for times, share in shares),
    )


def _prompts(request: Mapping[str, Any]) -> Sequence[Any]:
    prompt = request.get("prompt", request.get("input_ids", ""))
    many = not isinstance(prompt, str) and bool(prompt) and not isinstance(prompt[0], int)
    return prompt if many else [prompt]


def read_body(raw: BaseHTTPResponse, num_bytes: int) -> Iterator[bytes]:
    """Yield a body as it arrives, unpacked, up to `num_bytes`.

    Raises:
        Oversized: it holds more than that.
        Undecodable: it cannot be unpacked.
    """
    packed = raw.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = _Unpacker(packed)
    left = num_bytes
    while chunk := raw.read1(_CHUNK, decode_content=False):
        for piece in unpack(chunk):
            left -= len(piece)
            if left < 0:
                raise Oversized
            yield piece


class _Unpacker:
    """Undo a content encoding in pieces of bounded size: some bytes can unpack to gigabytes."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Undecodable
        self._inflater = None if encoding in ("", "identity") else zlib.decompressobj(wbits=47)

    def __call__(self, data: bytes) -> Iterator[bytes]:
        inflater = self._inflater
        if inflater is None:
            yield data
            return
        while data:
            try:
                piece = inflater.decompress(data, _CHUNK)
            except zlib.error:
                raise Undecodable from None
            if piece:
                yield piece
            data = inflater.unconsumed_tail
