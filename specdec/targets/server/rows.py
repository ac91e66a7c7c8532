"""What servers say about a next token, in four wire formats, as one `Row`.

A row holds token ids and log-probabilities, likeliest first. Ids are the truth; where a server
names tokens by their text only, a text counts when exactly one token of the vocabulary has it, and
everything else is unknown: it stays out of the row and is counted. Numbers are checked here, so
that a server that answers nonsense is found out before its answer decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer

_ID_PREFIX = "token_id:"
_LOWEST = -9998.0
"""vLLM writes −9999 for −∞, as a filler where its own sampler excluded tokens."""
_ROUNDING = 1e-3
_MAX_MASS = 1.02
"""Log-probabilities that were rounded to bfloat16 add up to a little more or less than 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The known part of one next-token distribution, likeliest first.

    `logprobs` [num_known] belong to `token_ids` [num_known]; `num_unknown` entries of the answer
    could not be traced back to a token.
    """

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    num_unknown: int = 0

    @classmethod
    def make(cls, entries: Iterable[tuple[int | None, Any]]) -> Row:
        """Check and sort (token id, log-probability) pairs; an id of None is unknown.

        Raises:
            TargetError: these cannot be log-probabilities of one distribution.
        """
        known: dict[int, float] = {}
        num_unknown = 0
        mass = 0.0
        for token_id, value in entries:
            logprob = _checked(value)
            if logprob <= _LOWEST:
                continue
            mass += math.exp(logprob)
            if token_id is None:
                num_unknown += 1
            else:
                known[token_id] = logprob
        if mass > _MAX_MASS:
            raise TargetError(
                f"The server's probabilities of one token add up to {mass:.2f}; "
                "it does not return real log-probabilities."
            )
        token_ids = np.fromiter(known, np.int64, len(known))
        logprobs = np.fromiter(known.values(), np.float64, len(known))
        order = np.argsort(-logprobs, kind="stable")
        return cls(token_ids[order], logprobs[order], num_unknown)

    def __len__(self) -> int:
        return len(self.token_ids)

    def best(self) -> int | None:
        """Return the likeliest token, None where two are equally likely or none is known."""
        tied = len(self) > 1 and self.logprobs[0] == self.logprobs[1]
        return None if tied or not len(self) else int(self.token_ids[0])

    def logits(self, vocab_size: int, top_logprobs: int) -> NDArray[np.float32]:
        """Return logits [vocab_size] with the `top_logprobs` likeliest tokens and −∞ elsewhere.

        Servers add the drafted or sampled token where it is less likely than all these. It must
        go: a support that depends on the draft would bias the output.
        """
        kept = self.token_ids[:top_logprobs]
        if kept.size and not 0 <= kept.min() <= kept.max() < vocab_size:
            raise TargetError(
                f"The server names token {kept.max()}, but the target's tokenizer has only "
                f"{vocab_size} tokens; set the endpoint's tokenizer to that of its model."
            )
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[kept] = self.logprobs[:top_logprobs]
        return logits


def _checked(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise TargetError(f"The server returned {value!r} where a log-probability should stand.")
    if value > _ROUNDING:
        raise TargetError(
            f"The server returned the positive log-probability {value:g}; "
            "it does not return real log-probabilities."
        )
    return float(value)


class TokenNames:
    """The tokens of a vocabulary by the names servers give them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids: dict[str, int | None] = {}
        for token_id in range(tokenizer.vocab_size):
            try:
                text = tokenizer.token_bytes(token_id).decode()
            except UnicodeDecodeError:
                continue  # a part of a character has no text of its own
            if text:
                self._ids[text] = None if text in self._ids else token_id

    def id_of(self, name: str) -> int | None:
        """Return the id behind "token_id:123" or behind a text that only one token has."""
        if name.startswith(_ID_PREFIX):
            return int(name.removeprefix(_ID_PREFIX))
        return self._ids.get(name)


def from_prompt_logprobs(entry: Mapping[str, Any]) -> Row:
    """Read vLLM's `prompt_logprobs`: {"<id>": {"logprob": …, "rank": …}}."""
    return Row.make((int(token_id), value["logprob"]) for token_id, value in entry.items())


def from_triples(entry: Sequence[Sequence[Any]]) -> Row:
    """Read SGLang's `top_logprobs`: [[logprob, id, text], …]."""
    return Row.make((int(token_id), logprob) for logprob, token_id, *_ in entry)


def from_names(entry: Mapping[str, Any], names: TokenNames) -> Row:
    """Read one position of OpenAI's `top_logprobs` arrays: {"text" or "token_id:…": logprob}."""
    return Row.make((names.id_of(name), logprob) for name, logprob in entry.items())


def from_objects(entry: Sequence[Mapping[str, Any]]) -> Row:
    """Read chat-like `top_logprobs`: [{"id": …, "logprob": …}, …], as llama-server and mlx_lm."""
    return Row.make((int(token["id"]), token["logprob"]) for token in entry)
