"""What a user would get without speculation: the same prompt, streamed from the same server.

Across a network the server that decodes by itself is the one to beat. It crosses the network once
per answer and speculation once per round, so with a fast server streaming often wins; whoever
speculates against a server should know by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdec.errors import TargetError
from specdec.records import percent
from specdec.sampling import Sampler
from specdec.targets.server.faults import HttpError
from specdec.targets.server.own_speculation import OwnSpeculation, read_counters
from specdec.targets.server.reader import Value
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.servers import SERVERS
from specdec.targets.server.wire import COMPLETIONS_PATH

_MAX_SURPLUS = 16
"""Some servers write on to the end of a character; a count beyond that is nonsense."""


@dataclass(frozen=True, slots=True)
class StreamingBaseline:
    """One streamed answer: `wall_s` from sending the prompt to the last token.

    `counted_by` is "server" where it told the number of tokens, otherwise "tokenizer": then the
    text was encoded again, which may count a few more or less. `text` is what was written, and
    `speculation` what the server counted of its own, where it does and nobody else was served.
    """

    num_tokens: int
    ttft_s: float
    wall_s: float
    counted_by: str
    text: str = ""
    speculation: OwnSpeculation | None = None

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
    speaks = SERVERS["vllm"].title in target.capabilities.server
    before = read_counters(target.connection) if speaks else None
    try:
        measured = _measure(target, request | {"stream_options": {"include_usage": True}})
    except HttpError as error:
        if error.status not in (400, 422):
            raise
        measured = _measure(target, request)
    if before is None or (after := read_counters(target.connection)) is None:
        return measured
    counted = after.since(before)
    if counted is None or not counted.num_drafts or not counted.explains(measured.num_tokens):
        return measured
    return replace(measured, speculation=counted)


def _measure(target: RemoteTarget, request: Mapping[str, Any]) -> StreamingBaseline:
    text, told = "", None
    arrivals_s: list[float] = []
    for at_s, chunk in target.connection.stream(COMPLETIONS_PATH, request):
        if chunk.get("error"):
            raise TargetError(
                f"{target.endpoint.name} broke its stream off with an error ({chunk.words()}); "
                "look at its log."
            )
        pieces = [_piece(choice) for choice in _choices(chunk)]
        if any(piece is not None for piece in pieces):
            arrivals_s.append(at_s)
            text += "".join(piece or "" for piece in pieces)
        most = request["max_tokens"] + _MAX_SURPLUS
        told = chunk.get("usage", "completion_tokens").count(most) or told
    if not arrivals_s:
        raise TargetError(
            f"{target.endpoint.name} streamed no token; it may not stream completions at all."
        )
    return StreamingBaseline(
        num_tokens=told or len(target.tokenizer.encode(text)),
        ttft_s=arrivals_s[0],
        wall_s=arrivals_s[-1],
        counted_by="server" if told else "tokenizer",
        text=text,
    )


def _choices(chunk: Value) -> list[Value]:
    choices = chunk.get("choices") if chunk.is_object else chunk["choices"]
    return [] if choices.is_null else choices.items()


def _piece(choice: Value) -> str | None:
    """Return the text of an event, None for one without a token."""
    text = choice["text"].text() if choice.get("text") else ""
    return text if text or choice.get("token_ids") else None


def speculation_words(counted: OwnSpeculation) -> str:
    """Say what a server did by itself while it streamed."""
    rates = ", ".join(
        percent(accepted / counted.num_drafts) for accepted in counted.accepted_per_pos
    )
    return (
        f"The server speculated by itself meanwhile: {counted.num_accepted_tokens} of "
        f"{counted.num_draft_tokens} drafted tokens accepted "
        f"({percent(counted.draft_acceptance_rate)}), "
        f"{counted.mean_acceptance_length:.2f} tokens per step; by position {rates} "
        "(its own /metrics, before and after)."
    )


def streaming_verdict(tokens_per_s: float, streaming: StreamingBaseline) -> str:
    """Say which is faster, speculation at `tokens_per_s` or the server streaming by itself."""
    ratio = tokens_per_s / streaming.tokens_per_s
    figures = f"{tokens_per_s:.1f} against {streaming.tokens_per_s:.1f} tokens per second"
    if ratio >= 1:
        return f"Speculation is {ratio:.2f} times as fast as streaming from this server: {figures}."
    return f"Streaming from this server is {1 / ratio:.2f} times as fast as speculation: {figures}."
