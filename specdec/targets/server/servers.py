"""The kinds of server this project knows, and how each is asked.

What stands here are presets: which wordings are worth trying and which fields a server needs so
that its defaults do not change the distribution. Whether they hold is for the probe to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specdec.targets.server.continuation import Continuation, WritePrompt
from specdec.targets.server.prefixes import CompletionPrefixes, LlamaServerPrefixes, Prefixes
from specdec.targets.server.prompts import IdPrompt
from specdec.targets.server.reader import Value
from specdec.targets.server.score import Echo, PromptLogprobs, Score, SglangGenerate
from specdec.targets.server.wire import Dialect, WireProtocol

CONTINUATION = "continuation"
NATIVE_IDS = frozenset({"generate", "llama-prompts"})
"""Wordings whose answers name tokens by id without being told to."""


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of server.

    Attributes:
        title: its name on screen.
        forms: wordings that score a draft, best first.
        fields: of every completion request.
        id_fields: make it name tokens by id; left out where it refuses them.
        chat_logprobs: whether it wants `logprobs: true, top_logprobs: N`.
        max_top_logprobs: the cap it is known for, None if it has none or is asked.
        whole_vocabulary: how it wants "all tokens" said, None for their number.
        health_path: answers quickly and does nothing.
        takes_ids: False where trying token ids is known to be futile.
        any_model: whether it serves one model under whatever name it is asked for.
        advice: what to mind when it fails, in a sentence.
    """

    title: str
    forms: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    id_fields: Mapping[str, Any] = field(default_factory=dict)
    chat_logprobs: bool = False
    max_top_logprobs: int | None = None
    whole_vocabulary: int | None = None
    health_path: str = "/v1/models"
    takes_ids: bool = True
    any_model: bool = False
    advice: str = ""


_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_BY_ID = {"return_tokens_as_token_ids": True}

SERVERS: Mapping[str, Server] = {
    "cerebras": Server("Cerebras", ("echo", "prompts")),
    "vllm": Server(
        "vLLM",
        ("prompt_logprobs", "prompts"),
        fields=_NEUTRAL,
        id_fields=_BY_ID,
        whole_vocabulary=-1,
    ),
    "sglang": Server("SGLang", ("generate",)),
    "llama-server": Server(
        "llama-server",
        ("llama-prompts",),
        fields={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "samplers": ["temperature"]},
        any_model=True,
    ),
    "mlx": Server(
        "mlx_lm.server",
        (),
        chat_logprobs=True,
        max_top_logprobs=11,
        health_path="/health",
        takes_ids=False,
        any_model=True,
        advice="Start mlx_lm.server with --prompt-cache-size 0: with its cache it dies of a "
        "prompt that ends in the token it has just written.",
    ),
    "auto": Server(
        "an OpenAI-compatible server",
        ("prompt_logprobs", "echo", "prompts"),
        id_fields=_BY_ID,
    ),
}

_FORMS: Mapping[str, Callable[[Dialect], WireProtocol]] = {
    "prompt_logprobs": lambda dialect: Score(PromptLogprobs(dialect)),
    "echo": lambda dialect: Score(Echo(dialect)),
    "generate": lambda dialect: Score(SglangGenerate(dialect)),
    "prompts": lambda dialect: Prefixes(CompletionPrefixes(dialect)),
    "llama-prompts": lambda dialect: Prefixes(LlamaServerPrefixes(dialect)),
}


def make_protocol(
    form: str, dialect: Dialect, write_prompt: WritePrompt | None = None, *, greedy: bool = True
) -> WireProtocol:
    """Build the protocol behind the wording `form`; the rest is for continuations only."""
    if form == CONTINUATION:
        return Continuation(dialect, write_prompt or IdPrompt(), greedy=greedy)
    return _FORMS[form](dialect)


def recognise(headers: Mapping[str, str], models: Sequence[Value]) -> str:
    """Tell the kind of a server from the headers and the models of its list; "auto" if unknown."""
    if headers.get("Server", "").startswith("BaseHTTP"):
        return "mlx"
    owner = models[0].get("owned_by") if models else Value(None)
    known = owner.text().lower() if owner else ""
    owners = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama-server"}
    return owners.get(known, "cerebras" if "cerebras" in known else "auto")
