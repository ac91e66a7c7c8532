"""What a user would get without speculation: the same prompt, streamed from the same server.

Across a network the server that decodes by itself is the one to beat. It crosses the network once
per answer and speculation once per round, so with a fast server streaming often wins; whoever
speculates against a server should know by how much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.errors import TargetError
from specdec.sampling import Sampler
from specdec.targets.server.faults import HttpError, error_message
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.wire import COMPLETIONS_PATH, reading


@dataclass(frozen=True, slots=True)
class StreamingBaseline:
    """One streamed answer: `wall_s` from sending the prompt to the last token.

    `counted_by` is "server" where it told the number of tokens, otherwise "tokenizer": then the
    text was encoded again, which may count a few more or less.
    """

    num_tokens: int
    ttft_s: float
    wall_s: float
    counted_by: str

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s


def measure_streaming(
    target: RemoteTarget, prompt: Sequence[int], sampler: Sampler, max_tokens: int
) -> StreamingBaseline:
    """Stream up to `max_tokens` tokens after `prompt` and time them.

    Raises:
        TargetError: the server did not stream a single token.
    """
    request = {
        "model": target.endpoint.model,
        "prompt": target.write_prompt(prompt),
        "max_tokens": max_tokens,
        "temperature": sampler.temperature,
        "top_p": sampler.top_p,
        "stream": True,
    }
    try:
        return _measure(target, request | {"stream_options": {"include_usage": True}})
    except HttpError as error:
        if error.status not in (400, 422):
            raise
        return _measure(target, request)


def _measure(target: RemoteTarget, request: Mapping[str, Any]) -> StreamingBaseline:
    text, told = "", None
    arrivals_s: list[float] = []
    for at_s, data in target.connection.stream(COMPLETIONS_PATH, request):
        if data == "[DONE]":
            break
        with reading():
            chunk = json.loads(data)
            if chunk.get("error"):
                raise TargetError(
                    f"{target.endpoint.name} broke its stream off with an error "
                    f"({error_message(data.encode())}); look at its log."
                )
            for choice in chunk.get("choices") or ():
                piece = choice.get("text") or ""
                if piece or choice.get("token_ids"):
                    arrivals_s.append(at_s)
                    text += piece
            told = (chunk.get("usage") or {}).get("completion_tokens") or told
    if not arrivals_s:
        raise TargetError(
            f"{target.endpoint.name} streamed no token; it may not stream completions at all."
        )
    return StreamingBaseline(
        num_tokens=told or len(target.tokenizer.encode(text)),
        ttft_s=arrivals_s[0],
        wall_s=arrivals_s[-1],
        counted_by="server" if told else "tokenizer",
    )


def streaming_verdict(tokens_per_s: float, streaming: StreamingBaseline) -> str:
    """Say which is faster, speculation at `tokens_per_s` or the server streaming by itself."""
    ratio = tokens_per_s / streaming.tokens_per_s
    figures = f"{tokens_per_s:.1f} against {streaming.tokens_per_s:.1f} tokens per second"
    if ratio >= 1:
        return f"Speculation is {ratio:.2f} times as fast as streaming from this server: {figures}."
    return f"Streaming from this server is {1 / ratio:.2f} times as fast as speculation: {figures}."
