"""A target across a network: drafts go out, rows come back, and nothing is guessed in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores, Wanted
from specdec.targets.server.capabilities import Capabilities
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.faults import OnWait, Quota, ServerFault
from specdec.targets.server.http import Connection
from specdec.targets.server.noise import noise_words
from specdec.targets.server.probe import Finding, Probed, probe
from specdec.targets.server.rows import Row
from specdec.targets.server.vocabulary import load_target_tokenizer

PROTOCOL_WORDS = {
    "score": "score: the server reads the draft and scores it in one pass",
    "prefixes": "prefixes: one prompt per drafted token, all in one request",
    "continue": "continue, the last resort: the server writes on by itself, and nothing is "
    "verified in parallel",
}


def connect(
    endpoint: Endpoint, tokenizer: Tokenizer, *, on_wait: OnWait | None = None
) -> RemoteTarget:
    """Open a connection, probe the server and return its model as a target.

    The answer holds for as long as the server stays as it is: keep the target, and share it.

    Raises:
        SettingsError: the endpoint's key is missing.
        TargetError: the server cannot be reached, or cannot verify at all.
    """
    connection = Connection(endpoint, endpoint.key())
    return RemoteTarget(connection, tokenizer, probe(connection, tokenizer, on_wait))


def open_remote(endpoint: Endpoint, *, on_wait: OnWait | None = None) -> RemoteTarget:
    """Open the endpoint's tokenizer (its model's, if none is named) and connect.

    Raises:
        SettingsError: the endpoint's key is missing.
        ModelError: the tokenizer cannot be had.
        TargetError: the server cannot be reached, or cannot verify at all.
    """
    endpoint.key()  # without it there is no point in fetching a tokenizer
    return connect(
        endpoint, load_target_tokenizer(endpoint.tokenizer or endpoint.model), on_wait=on_wait
    )


class RemoteTarget:
    """One model behind one server, verified by the best protocol the probe found.

    `on_wait` is told while a failed call waits for its next attempt; give each run its own with
    `watched_by`, since the connection is shared.
    """

    link_is_emulated = False

    def __init__(
        self,
        connection: Connection,
        tokenizer: Tokenizer,
        probed: Probed,
        on_wait: OnWait | None = None,
    ) -> None:
        """Wrap a probed connection; prefer `connect`.

        Args:
            connection: to the endpoint.
            tokenizer: of the target.
            probed: what the server can do.
            on_wait: told about waits before another attempt.
        """
        self.connection = connection
        self.tokenizer = tokenizer
        self._probed = probed
        self._on_wait = on_wait
        self.endpoint = connection.endpoint
        self.capabilities: Capabilities = probed.capabilities
        self.name = self.endpoint.model
        self.backend = self.capabilities.protocol
        self.vocab_size = self.capabilities.vocab_size + self.capabilities.padding
        self.context_length = self.capabilities.context_length

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what the probe found out, in words."""
        return self._probed.findings

    def write_prompt(self, token_ids: Sequence[int]) -> str | list[int]:
        """Return a context as the server reads it: as ids, or as a text."""
        return self._probed.write_prompt(token_ids)[0]

    @property
    def quota(self) -> Quota | None:
        """Return what the server last said is left of its rate limits."""
        return self.connection.quota

    def exactness_for(self, sampler: Sampler) -> Exactness:
        return self.capabilities.exactness_for(sampler)

    def watched_by(self, on_wait: OnWait) -> RemoteTarget:
        """Return the same target, telling `on_wait` about its waits."""
        return RemoteTarget(self.connection, self.tokenizer, self._probed, on_wait)

    def status(self, sampler: Sampler) -> tuple[Finding, ...]:
        """Return what to know about the connection at a glance, for a run with `sampler`."""
        can = self.capabilities
        lines = [
            Finding("server", f"{can.server} at {self.endpoint.host}"),
            Finding("model", self.name),
            Finding("protocol", PROTOCOL_WORDS[can.protocol]),
            Finding("output", str(self.exactness_for(sampler))),
            Finding("noise", noise_words(can.noise)),
            Finding("round trip", f"{can.rtt_s * 1e3:.1f} ms"),
        ]
        if self.quota is not None:
            lines.append(Finding("rate limits", str(self.quota)))
        return tuple(lines)

    def cannot_give(self, wanted: Wanted) -> str | None:
        if not wanted:
            return None
        return (
            f"{self.name} is behind a server, which gives probabilities only; hidden states and "
            "attention weights need a target on this machine."
        )

    def start(self, prompt: Sequence[int], wanted: Wanted = LOGITS_ONLY) -> RemoteTargetRun:
        """Begin a run; the prompt travels with the first call."""
        assert not wanted
        return RemoteTargetRun(self.connection, self._probed, self._on_wait)


class RemoteTargetRun:
    """A run; it keeps no state, since every call carries its whole context."""

    read_hidden = None

    def __init__(self, connection: Connection, probed: Probed, on_wait: OnWait | None) -> None:
        self._connection = connection
        self._probed = probed
        self._on_wait = on_wait

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        try:
            answer = self._probed.protocol.ask(self._connection, context, draft, self._on_wait)
        except ServerFault as error:
            if not self._probed.advice:
                raise
            raise ServerFault(f"{error} {self._probed.advice}") from error
        link_s = 0.0 if answer.server_s is None else max(0.0, answer.call_s - answer.server_s)
        logits = [None if row is None else self._logits(row) for row in answer.rows]
        return Scores(logits, link_s, answer.retry_s, answer.num_sequences)

    def _logits(self, row: Row) -> NDArray[np.float32]:
        """Return logits [vocab_size], after checking that the row holds what it is exact for."""
        can = self._probed.capabilities
        if can.names_ids and len(row) < can.top_logprobs:
            raise TargetError(
                f"The server returned {len(row)} of the {can.top_logprobs} likeliest tokens it "
                "had promised; connect again, so that it is probed anew."
            )
        if not len(row):
            raise TargetError(
                "None of the tokens that the server names is in the target's vocabulary; set the "
                "endpoint's tokenizer to that of its model."
            )
        return row.logits(can.vocab_size + can.padding, can.top_logprobs)

    def close(self) -> None:
        """Leave the connection open for the next run."""
