"""What the three verification protocols share: their shape, and OpenAI-style completions.

A protocol turns a draft into one HTTP request and the answer into one row per node. How a request
is worded and an answer read depends on the server; both are pure functions, so that every recorded
answer can be replayed through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.faults import OnWait
from specdec.targets.server.http import Connection, Reply
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import Row, TokenNames, from_names, from_objects

COMPLETIONS_PATH = "/v1/completions"
Prompt = str | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified draft as it came back.

    `rows[0]` stands after the context, `rows[i + 1]` after node i; None where the server said
    nothing about it. `server_s` is the server's own time for the call, None if it does not tell.
    `num_sequences` prompts were sent.
    """

    rows: tuple[Row | None, ...]
    call_s: float
    retry_s: float
    server_s: float | None
    num_sequences: int

    @classmethod
    def of(cls, reply: Reply, rows: Sequence[Row | None], num_sequences: int = 1) -> Answer:
        server_s = server_seconds(reply.body)
        return cls(tuple(rows), reply.call_s, reply.retry_s, server_s, num_sequences)


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
        any_model: whether it serves one model under whatever name it is asked for.
    """

    model: str
    names: TokenNames
    top_logprobs: int
    chat_logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    any_model: bool = False

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

    def choices(self, body: Value, count: int) -> list[Value]:
        """Return the `count` choices of a completion in the order of their prompts.

        Raises:
            TargetError: it has others than were asked for, or none, or is another model's.
        """
        if not body.has("choices"):
            if (body.is_object and body.get("message")) or body.get("detail"):
                raise TargetError(f"The server answered without choices: {body.words()}.")
            raise body["choices"].misshapen("a list")
        self._check_model(body)
        choices = body["choices"].items()
        if len(choices) != count:
            raise TargetError(
                f"The server answered {len(choices)} of {count} prompts; it does not take several "
                "prompts in one request."
            )
        return in_order(choices)

    def _check_model(self, body: Value) -> None:
        """Refuse an answer that says it is another model's; names may be longer or shorter."""
        if self.any_model or not body.get("model"):
            return
        asked, answered = self.model.casefold(), body["model"].text().casefold()
        if asked not in answered and answered not in asked:
            raise TargetError(
                f"The server was asked for the model {self.model}, but answered for "
                f"{body['model'].shown()}; set the endpoint's model to the one that it serves."
            )

    def generated(self, choice: Value, *, greedy: bool = False) -> list[tuple[int | None, Row]]:
        """Read (chosen token, row) for every position that `choice` generated.

        The chosen token is None where it cannot be told. Chat-like answers do not say it reliably
        (mlx_lm names the first of an unsorted list), but a greedy server took the likeliest.
        """
        logprobs = choice.get("logprobs")
        if logprobs.is_null:
            return []
        if logprobs.has("content"):
            rows = [from_objects(entry["top_logprobs"]) for entry in logprobs["content"].items()]
            return [(row.best() if greedy else None, row) for row in rows]
        tokens, tops = logprobs["tokens"].items(), logprobs["top_logprobs"].items()
        if len(tokens) != len(tops):
            raise logprobs["top_logprobs"].misshapen(f"a list as long as the {len(tokens)} tokens")
        return [
            (self.names.id_of(token.text()), from_names(entry, self.names))
            for token, entry in zip(tokens, tops, strict=True)
        ]


def in_order(answers: Sequence[Value]) -> list[Value]:
    """Return answers by their `index`, which must be those of as many prompts."""
    ordered: list[Value | None] = [None] * len(answers)
    for answer in answers:
        index = answer["index"].integer(0, len(answers) - 1)
        if ordered[index] is not None:
            raise TargetError(
                f"The server answered prompt {index} twice and another one not at all; check the "
                "endpoint's server setting."
            )
        ordered[index] = answer
    return [answer for answer in ordered if answer is not None]


def server_seconds(body: Value) -> float | None:
    """Return the time a server says it took: Cerebras' `time_info`, SGLang's `e2e_latency`."""
    told = (body.get("time_info", "total_time"), body.get("meta_info", "e2e_latency"))
    return next((value.seconds() for value in told if value.seconds() is not None), None)
