"""A server with a known model behind the wire formats of the real ones, and with their faults.

Only HTTP and JSON are imitated, after the recordings in tests/fixtures/servers; the distributions
are real ones, computed from the whole token sequence of each request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from specdec.models.tokenizer import Tokenizer
from tests.made_runs import hashed_logits

FIELDS = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "logprobs", "echo"),
    *("seed", "stream", "stream_options"),
}
Model = Callable[[Sequence[int]], np.ndarray]


@cache
def _remembered(last_two: tuple[int, ...]) -> np.ndarray:
    return hashed_logits(last_two)


def toy_model(context: Sequence[int]) -> np.ndarray:
    """Return `hashed_logits`, computed once for every pair of tokens."""
    return _remembered(tuple(context[-2:]))


@dataclass
class ToyServer:
    """What the server can do and gets wrong.

    `naming` is "id", "text" or "objects"; `echo` and `prompt_logprobs` are "right", "refused",
    "ignored", "zeros", "null" or "shifted"; with `zeros`, all it writes has log-probability 0,
    with `silent` it has none; `start_token` is put before every text.
    """

    tokenizer: Tokenizer
    model: Model = toy_model
    owner: str = "toy"
    naming: str = "id"
    echo: str = "right"
    prompt_logprobs: str = "right"
    cap: int = 20
    takes_ids: bool = True
    takes_many: bool = True
    after_temperature: bool = False
    strict: bool = False
    zeros: bool = False
    silent: bool = False
    start_token: int | None = None
    models: tuple[str, ...] = ("toy",)
    server_s: float | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)

    def mount(self, httpserver: HTTPServer) -> None:
        listing = {"data": [{"id": m, "owned_by": self.owner} for m in self.models]}
        httpserver.expect_request("/v1/models").respond_with_json(listing)
        httpserver.expect_request("/health").respond_with_json({"status": "ok"})
        for path, handle in (
            ("/v1/completions", self.completions),
            ("/generate", self.generate),
            ("/completion", self.llama_completion),
        ):
            httpserver.expect_request(path, method="POST").respond_with_handler(
                lambda request, handle=handle: self._answer(request, handle)
            )

    def _answer(self, request: Request, handle: Callable[[dict[str, Any]], Any]) -> Response:
        asked = request.get_json()
        self.requests.append(asked)
        try:
            return _json(handle(asked))
        except ValueError as error:
            return _json({"error": {"message": str(error)}}, 400)

    def completions(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.strict and set(asked) - FIELDS:
            raise ValueError(f"unknown fields {sorted(set(asked) - FIELDS)}")
        prompts = self._prompts(asked["prompt"])
        if self.naming == "objects" and asked["logprobs"] is not True:
            raise ValueError("logprobs must be of type bool")
        count = asked["top_logprobs"] if asked["logprobs"] is True else asked["logprobs"]
        count = self.tokenizer.vocab_size if count == -1 else count
        if max(count, asked.get("prompt_logprobs", 0)) > self.cap:
            raise ValueError(f"Requested logprobs of {count}, which is greater than {self.cap}")
        by_id = self.naming == "id" and asked.get("return_tokens_as_token_ids", False)
        choices = [self._choice(i, p, asked, count, by_id) for i, p in enumerate(prompts)]
        body: dict[str, Any] = {
            "choices": choices[::-1],
            "usage": {"prompt_tokens": sum(map(len, prompts))},
        }
        if self.server_s is not None:
            body["time_info"] = {"total_time": self.server_s}
        return body

    def _prompts(self, prompt: Any) -> list[list[int]]:
        if isinstance(prompt, str):
            start = [] if self.start_token is None else [self.start_token]
            return [[*start, *self._with_controls(prompt)]]
        if not self.takes_ids:
            raise ValueError("prompt must be of type str")
        many = isinstance(prompt[0], list)
        if many and not self.takes_many:
            prompt = prompt[:1]
        return prompt if many else [prompt]

    def _with_controls(self, text: str) -> list[int]:
        return self.tokenizer.vocabulary.encode(text, with_controls=True)

    def _choice(
        self, index: int, prompt: list[int], asked: dict[str, Any], count: int, by_id: bool
    ) -> dict[str, Any]:
        temperature = asked["temperature"]
        written: list[int] = []
        positions = []
        for _ in range(asked["max_tokens"]):
            logits = self.model([*prompt, *written])
            shown = temperature if self.after_temperature and temperature else 1.0
            positions.append(0.0 * logits if self.zeros else _logprobs(logits / shown))
            written.append(int(logits.argmax()) if temperature == 0 else self._draw(logits))
        choice: dict[str, Any] = {"index": index, "text": self.tokenizer.decode(written)}
        if self.silent:
            return choice | {"logprobs": None}
        scored = [_logprobs(self.model(prompt[:i])) for i in range(1, len(prompt))]
        if self.naming == "objects":
            choice["logprobs"] = {"content": [self._object(p, count) for p in positions]}
            return choice
        tokens, tops = (
            written,
            [self._top(p, t, count) for p, t in zip(positions, written, strict=True)],
        )
        how = self.echo if asked.get("echo") else "ignored"
        if how == "refused":
            raise ValueError("Setting 'echo' and 'logprobs' at the same time is not supported")
        if how != "ignored":
            rows = self._told(how, scored, positions[0])
            echoed = [self._top(r, t, count) for r, t in zip(rows, prompt[1:], strict=True)]
            echoed = [None] * len(echoed) if how == "null" else echoed
            tokens, tops = [*prompt, *written], [None, *echoed, *tops]
        choice["logprobs"] = {
            "tokens": [self._name(token, by_id) for token in tokens],
            "top_logprobs": [
                top and {self._name(i, by_id): value for i, value in top.items()} for top in tops
            ],
        }
        choice |= self._prompt_logprobs(asked, prompt, scored, positions[0])
        return choice

    def _prompt_logprobs(self, asked, prompt, scored, last) -> dict[str, Any]:
        how = self.prompt_logprobs if "prompt_logprobs" in asked else "ignored"
        if how == "ignored":
            return {"prompt_logprobs": None}
        if how == "null":
            return {"prompt_logprobs": [None]}
        if how == "refused":
            raise ValueError("prompt_logprobs is not supported")
        count = asked["prompt_logprobs"]
        count = self.tokenizer.vocab_size if count == -1 else count
        tops = [
            self._top(row, token, count)
            for row, token in zip(self._told(how, scored, last), prompt[1:], strict=True)
        ]
        told = [{str(i): {"logprob": value} for i, value in top.items()} for top in tops]
        return {"prompt_logprobs": [None, *told]}

    def _told(self, how: str, scored: list[np.ndarray], last: np.ndarray) -> list[np.ndarray]:
        if how == "zeros":
            return [np.zeros_like(row) for row in scored]
        return [*scored[1:], last] if how == "shifted" else scored

    def generate(self, asked: dict[str, Any]) -> Any:
        """Answer as SGLang does."""
        ids, count = asked["input_ids"], asked["top_logprobs_num"]
        sequences = ids if isinstance(ids[0], list) else [ids]
        answers = []
        for sequence in sequences:
            scored = range(asked["logprob_start_len"] + 1, len(sequence))
            rows = [_logprobs(self.model(sequence[:i])) for i in scored]
            written = self._draw(self.model(sequence))
            last = _logprobs(self.model(sequence))
            start = asked["logprob_start_len"]
            info = {
                "input_token_logprobs": [[None, sequence[start], None]]
                + [
                    [float(r[sequence[i]]), sequence[i], None]
                    for r, i in zip(rows, scored, strict=True)
                ],
                "input_top_logprobs": [None, *(self._triples(row, count) for row in rows)],
                "output_top_logprobs": [self._triples(last, count)],
                "output_token_logprobs": [[float(last[written]), written, None]],
                "e2e_latency": self.server_s or 0.0,
            }
            answers.append({"meta_info": info})
        return answers if isinstance(ids[0], list) else answers[0]

    def llama_completion(self, asked: dict[str, Any]) -> Any:
        """Answer as llama-server does."""
        assert asked["samplers"] == ["temperature"]
        return [
            {
                "index": index,
                "completion_probabilities": [
                    self._object(_logprobs(self.model(prompt)), asked["n_probs"])
                ],
            }
            for index, prompt in enumerate(asked["prompt"])
        ]

    def _draw(self, logits: np.ndarray) -> int:
        """Return a token that is nearly never the likeliest, as sampling may."""
        return int(np.argsort(-logits)[7])

    def _top(self, row: np.ndarray, token: int, count: int) -> dict[int, float]:
        ids = dict.fromkeys([token, *np.argsort(-row)[:count].tolist()])
        return {i: float(row[i]) for i in ids}

    def _triples(self, row: np.ndarray, count: int) -> list[list[Any]]:
        return [[float(row[i]), int(i), None] for i in np.argsort(-row)[:count]]

    def _object(self, row: np.ndarray, count: int) -> dict[str, Any]:
        top = [{"id": int(i), "logprob": float(row[i])} for i in np.argsort(-row)[:count][::-1]]
        return {**top[0], "top_logprobs": top}

    def _name(self, token_id: int, by_id: bool) -> str:
        if by_id:
            return f"token_id:{token_id}"
        return self.tokenizer.token_bytes(token_id).decode("utf-8", "replace")


def _logprobs(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
