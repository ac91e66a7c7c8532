"""What the three verification protocols share: their shape, and OpenAI-style completions.

A protocol turns a draft into one HTTP request and the answer into one row per node. How a request
is worded and an answer read depends on the server; both are pure functions, so that every recorded
answer can be replayed through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.faults import OnWait
from specdec.targets.server.http import Connection, Reply
from specdec.targets.server.rows import Row, TokenNames, from_names, from_objects

COMPLETIONS_PATH = "/v1/completions"
Prompt = str | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified draft as it came back.

    `rows[0]` stands after the context, `rows[i + 1]` after node i; None where the server said
    nothing about it. `server_s` is the server's own time for the call, None if it does not tell.
    """

    rows: tuple[Row | None, ...]
    call_s: float
    retry_s: float
    server_s: float | None

    @classmethod
    def of(cls, reply: Reply, rows: Sequence[Row | None]) -> Answer:
        return cls(tuple(rows), reply.call_s, reply.retry_s, server_seconds(reply.body))


class WireProtocol(Protocol):
    """One way to have a draft verified by a server in one call."""

    @property
    def name(self) -> str:
        """Return "score", "prefixes" or "continue"."""
        ...

    def ask(
        self,
        connection: Connection,
        context: Sequence[int],
        draft: Draft,
        on_wait: OnWait | None = None,
    ) -> Answer:
        """Send `context` and `draft`, and return a row for every node the server scored.

        Raises:
            TargetError: the server did not answer, or not usably.
        """
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one server words an OpenAI-style completion.

    Attributes:
        model: its name for the model.
        names: reads its names for tokens.
        top_logprobs: how many alternatives to ask for, as the server wants it said.
        chat_logprobs: whether it wants them as `logprobs: true, top_logprobs: N`.
        extra: further fields of every request.
    """

    model: str
    names: TokenNames
    top_logprobs: int
    chat_logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def request(self, prompt: Prompt, max_tokens: int, temperature: float = 1.0) -> dict[str, Any]:
        """Word a request; at temperature 1 log-probabilities are the model's own everywhere."""
        wanted = {"logprobs": self.top_logprobs}
        if self.chat_logprobs:
            wanted = {"logprobs": True, "top_logprobs": self.top_logprobs}
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": 1.0,
            **wanted,
            **self.extra,
        }

    def generated(
        self, choice: Mapping[str, Any], *, greedy: bool = False
    ) -> list[tuple[int | None, Row]]:
        """Read (chosen token, row) for every position that `choice` generated.

        The chosen token is None where it cannot be told. Chat-like answers do not say it reliably
        (mlx_lm names the first of an unsorted list), but a greedy server took the likeliest.
        """
        logprobs = choice["logprobs"]
        if logprobs is None:
            return []
        if "content" in logprobs:
            rows = [from_objects(entry["top_logprobs"]) for entry in logprobs["content"]]
            return [(row.best() if greedy else None, row) for row in rows]
        return [
            (self.names.id_of(token), from_names(entry, self.names))
            for token, entry in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
        ]


def in_order(body: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """Return the `count` choices of a completion in the order of their prompts."""
    choices: list[Mapping[str, Any]] = sorted(body["choices"], key=lambda c: int(c["index"]))
    if len(choices) != count:
        raise TargetError(
            f"The server answered {len(choices)} of {count} prompts; it does not take several "
            "prompts in one request."
        )
    return choices


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a body of an unexpected shape causes into one sentence."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(
            "The server's answer has not the shape its kind of server is known for "
            f"({type(error).__name__}: {error}); check the endpoint's server setting."
        ) from error


def server_seconds(body: Any) -> float | None:
    """Return the time a server says it took: Cerebras' `time_info`, SGLang's `e2e_latency`."""
    if not isinstance(body, dict):
        return None
    for group, name in (("time_info", "total_time"), ("meta_info", "e2e_latency")):
        seconds = (body.get(group) or {}).get(name)
        if isinstance(seconds, int | float) and seconds >= 0:
            return float(seconds)
    return None
