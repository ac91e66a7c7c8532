"""Protocol `prefixes`: one prompt per node of the draft, one generated token each, in one request.

With `[context, context + d1, context + d1 d2, …]` every distribution that verification needs is
that of a *generated* token, which nearly every completions API returns. Servers with a prefix cache
read the shared part once. A tree is no special case: each node is a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.faults import OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import Row, from_objects
from specdec.targets.server.wire import COMPLETIONS_PATH, Answer, Dialect, in_order


class PrefixForm(Protocol):
    """How one kind of server is asked for the next token of several prompts."""

    @property
    def path(self) -> str: ...

    def request(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]: ...

    def read(self, body: Value, num_prompts: int) -> list[Row | None]: ...


class Prefixes:
    """Verify with a server that takes several prompts in one request."""

    name = "prefixes"

    def __init__(self, form: PrefixForm) -> None:
        self.form = form

    def ask(
        self,
        connection: Connection,
        context: Sequence[int],
        draft: Draft,
        on_wait: OnWait | None = None,
    ) -> Answer:
        prompts = [[*context, *draft.tokens_to(node)] for node in range(-1, len(draft))]
        reply = connection.post(self.form.path, self.form.request(prompts), on_wait)
        rows = self.form.read(reply.body, len(prompts))
        return Answer.of(reply, rows, len(prompts))


class CompletionPrefixes:
    """OpenAI-style completions with a list of prompts."""

    path = COMPLETIONS_PATH

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def request(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        return self._dialect.request([list(prompt) for prompt in prompts], max_tokens=1)

    def read(self, body: Value, num_prompts: int) -> list[Row | None]:
        rows: list[Row | None] = []
        for choice in self._dialect.choices(body, num_prompts):
            generated = self._dialect.generated(choice)
            rows.append(generated[0][1] if generated else None)
        return rows


class LlamaServerPrefixes:
    """llama-server's native /completion; its samplers are all switched off by name."""

    path = "/completion"

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def request(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        return {
            "prompt": [list(prompt) for prompt in prompts],
            "n_predict": 1,
            "n_probs": self._dialect.top_logprobs,
            "cache_prompt": True,
            "temperature": 1.0,
            "samplers": ["temperature"],
            "repeat_penalty": 1.0,
        }

    def read(self, body: Value, num_prompts: int) -> list[Row | None]:
        answers = body.items() if body.is_list else [body]
        if len(answers) != num_prompts:
            raise TargetError(f"The server answered {len(answers)} of {num_prompts} prompts.")
        rows: list[Row | None] = []
        for answer in in_order(answers):
            told = answer.get("completion_probabilities")
            positions = told.items() if told else []
            rows.append(from_objects(positions[0]["top_logprobs"]) if positions else None)
        return rows
