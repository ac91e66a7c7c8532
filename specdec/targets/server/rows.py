"""What servers say about a next token, in four wire formats, as one `Row`.

A row holds token ids and log-probabilities, likeliest first. Ids are the truth; where a server
names tokens by their text only, a text counts when exactly one token of the vocabulary has it, and
everything else is unknown: it stays out of the row and is counted. What numbers may be, `Value`
checks; whether they can belong to one distribution is checked here, so that a server that answers
nonsense is found out before its answer decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.reader import Misshapen, Value, named_id

MAX_PADDING = 2048
"""The most rows a model's head may have beyond its tokenizer; gpt-oss has 1,069."""
_MAX_MASS = 1.02
"""Log-probabilities that were rounded to bfloat16 add up to a little more or less than 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The known part of one next-token distribution, likeliest first.

    `logprobs` [num_known] belong to `token_ids` [num_known]; −∞ is a token that was named as
    impossible. `num_unknown` entries of the answer could not be traced back to a token.
    """

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    num_unknown: int = 0

    @classmethod
    def make(cls, entries: Iterable[tuple[int | None, float]]) -> Row:
        """Check and sort (token id, log-probability) pairs; an id of None is unknown.

        Raises:
            TargetError: these cannot be log-probabilities of one distribution.
        """
        known: dict[int, float] = {}
        num_entries = num_unknown = 0
        mass = 0.0
        for token_id, logprob in entries:
            num_entries += 1
            if token_id is None:
                num_unknown += 1
            elif known.setdefault(token_id, logprob) != logprob:
                raise TargetError(
                    f"The server gives token {token_id} two different log-probabilities; it does "
                    "not return real ones."
                )
            mass += math.exp(logprob)
        if num_entries and not mass:
            raise TargetError(
                "The server gives every token that it names a probability of 0; it does not "
                "return real log-probabilities."
            )
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
        if kept.size and kept.max() >= vocab_size:
            raise TargetError(
                f"The server names token {kept.max()}, but the target's tokenizer has far fewer "
                "tokens; set the endpoint's tokenizer to that of its model."
            )
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[kept] = self.logprobs[:top_logprobs]
        return logits


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
        found = named_id(name)
        return self._ids.get(name) if found is None else found


def from_prompt_logprobs(entry: Value) -> Row:
    """Read vLLM's `prompt_logprobs`: {"<id>": {"logprob": …, "rank": …}}."""
    return Row.make((_id_key(name), value["logprob"].logprob()) for name, value in entry.fields())


def from_triples(entry: Value) -> Row:
    """Read SGLang's `top_logprobs`: [[logprob, id, text], …]."""
    return Row.make(map(_triple, entry.items()))


def from_names(entry: Value, names: TokenNames) -> Row:
    """Read one position of OpenAI's `top_logprobs` arrays: {"text" or "token_id:…": logprob}."""
    return Row.make((names.id_of(name), value.logprob()) for name, value in entry.fields())


def from_objects(entry: Value) -> Row:
    """Read chat-like `top_logprobs`: [{"id": …, "logprob": …}, …], as llama-server and mlx_lm."""
    return Row.make((token["id"].token_id(), token["logprob"].logprob()) for token in entry.items())


def _id_key(name: str) -> int:
    found = named_id(f"token_id:{name}")
    if found is None:
        raise Misshapen("The server names a token by no id; check the endpoint's server setting.")
    return found


def id_of_triple(entry: Value) -> int:
    """Return the token of SGLang's [logprob, id, text]."""
    return _part(entry, 1).token_id()


def _triple(entry: Value) -> tuple[int, float]:
    return id_of_triple(entry), _part(entry, 0).logprob()


def _part(entry: Value, index: int) -> Value:
    parts = entry.items()
    if len(parts) < 2:
        raise entry.misshapen("a log-probability and a token id")
    return parts[index]
