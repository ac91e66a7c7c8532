"""Protocol `score`: the draft stands in the prompt, and one forward pass scores all of it.

The server returns the log-probabilities of its *prompt*: row i is the distribution before token i.
The row after the last token comes from the one token it generates. A tree is sent as one prompt
per root-to-leaf path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.faults import OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import (
    Row,
    from_names,
    from_prompt_logprobs,
    from_triples,
    id_of_triple,
)
from specdec.targets.server.wire import COMPLETIONS_PATH, Answer, Dialect

Sequences = Sequence[Sequence[int]]
Rows = list[Row | None]


class ScoreForm(Protocol):
    """How one kind of server is asked to score prompts."""

    @property
    def path(self) -> str: ...

    def request(self, sequences: Sequences, start: int) -> dict[str, Any]:
        """Word a request for the rows of `sequences` from position `start` on."""
        ...

    def read(self, body: Value, sequences: Sequences, start: int) -> list[Rows]:
        """Return for each sequence the rows after its first `start`, start + 1, … tokens."""
        ...


class Score:
    """Verify with a server that scores prompts."""

    name = "score"

    def __init__(self, form: ScoreForm) -> None:
        self.form = form

    def ask(
        self,
        connection: Connection,
        context: Sequence[int],
        draft: Draft,
        on_wait: OnWait | None = None,
    ) -> Answer:
        sequences = [[*context, *draft.tokens_to(leaf)] for leaf in draft.leaves]
        request = self.form.request(sequences, len(context))
        reply = connection.post(self.form.path, request, on_wait)
        scored = self.form.read(reply.body, sequences, len(context))
        rows: Rows = [None] * (len(draft) + 1)
        for leaf, path_rows in zip(draft.leaves, scored, strict=True):
            for node, row in zip([-1, *draft.path_to(leaf)], path_rows, strict=True):
                rows[node + 1] = row
        return Answer.of(reply, rows, len(sequences))


class PromptLogprobs:
    """vLLM's `prompt_logprobs`, keyed by token id; the numbers are raw in every server mode."""

    path = COMPLETIONS_PATH

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def request(self, sequences: Sequences, start: int) -> dict[str, Any]:
        request = self._dialect.request(_one_or_many(sequences), max_tokens=1)
        return request | {"prompt_logprobs": self._dialect.top_logprobs}

    def read(self, body: Value, sequences: Sequences, start: int) -> list[Rows]:
        choices = self._dialect.choices(body, len(sequences))
        return [self._rows(c, s, start) for c, s in zip(choices, sequences, strict=True)]

    def _rows(self, choice: Value, sequence: Sequence[int], start: int) -> Rows:
        entries = _items(choice.get("prompt_logprobs"))
        _check_length(entries, len(sequence))
        for token_id, entry in zip(sequence[start:], entries[start:], strict=True):
            if not entry.has(str(token_id)):
                raise TargetError("The server scored other tokens than it was sent.")
        scored: Rows = [from_prompt_logprobs(entry) for entry in entries[start:]]
        return [*scored, _last(self._dialect, choice)]


class Echo:
    """OpenAI's legacy `echo` with `logprobs`: the prompt comes back with its scores."""

    path = COMPLETIONS_PATH

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def request(self, sequences: Sequences, start: int) -> dict[str, Any]:
        request = self._dialect.request(_one_or_many(sequences), max_tokens=1)
        return request | {"echo": True}

    def read(self, body: Value, sequences: Sequences, start: int) -> list[Rows]:
        choices = self._dialect.choices(body, len(sequences))
        return [self._rows(c, s, start) for c, s in zip(choices, sequences, strict=True)]

    def _rows(self, choice: Value, sequence: Sequence[int], start: int) -> Rows:
        entries = _items(choice.get("logprobs", "top_logprobs"))
        _check_length(entries, len(sequence) + 1)
        return [from_names(entry, self._dialect.names) for entry in entries[start:]]


class SglangGenerate:
    """SGLang's native /generate, which keeps its prefix cache up to where the scores begin."""

    path = "/generate"

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def request(self, sequences: Sequences, start: int) -> dict[str, Any]:
        return {
            "input_ids": _one_or_many(sequences),
            "return_logprob": True,
            # Row 0 of what comes back is always null: begin one token early.
            "logprob_start_len": start - 1,
            "top_logprobs_num": self._dialect.top_logprobs,
            "sampling_params": {
                "max_new_tokens": 1,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": -1,
            },
        }

    def read(self, body: Value, sequences: Sequences, start: int) -> list[Rows]:
        answers = body.items() if body.is_list else [body]
        if len(answers) != len(sequences):
            raise TargetError(f"The server answered {len(answers)} of {len(sequences)} prompts.")
        return [self._rows(a, s, start) for a, s in zip(answers, sequences, strict=True)]

    def _rows(self, answer: Value, sequence: Sequence[int], start: int) -> Rows:
        info = answer["meta_info"]
        scored_ids = [id_of_triple(entry) for entry in info["input_token_logprobs"].items()]
        if scored_ids != list(sequence[start - 1 :]):
            raise TargetError("The server scored other tokens than it was sent.")
        entries = [
            *info["input_top_logprobs"].items()[1:],
            *info["output_top_logprobs"].items()[:1],
        ]
        _check_length(entries, len(sequence) - start + 1)
        return [from_triples(entry) for entry in entries]


def _one_or_many(sequences: Sequences) -> Any:
    """Return a lone prompt as itself: it is the form that every server knows."""
    return list(sequences[0]) if len(sequences) == 1 else [list(s) for s in sequences]


def _last(dialect: Dialect, choice: Value) -> Row | None:
    generated = dialect.generated(choice)
    return generated[0][1] if generated else None


def _items(scores: Value) -> list[Value]:
    return [] if scores.is_null else scores.items()


def _check_length(entries: Sequence[Value], expected: int) -> None:
    if len(entries) != expected:
        raise TargetError(
            f"The server returned scores for {len(entries)} tokens instead of {expected}; "
            "it does not score prompts."
        )
