"""A target across a network: drafts go out, rows come back, and nothing is guessed in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.endpoints import Endpoint
from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.records import Draft
from specdec.sampling import Sampler
from specdec.targets.base import Exactness, Scores
from specdec.targets.capabilities import Capabilities
from specdec.targets.faults import OnWait, Quota
from specdec.targets.http import Connection
from specdec.targets.rows import Row
from specdec.targets.wire import WireProtocol


class RemoteTarget:
    """One model behind one server, verified by the best protocol the probe found.

    `on_wait` is told while a failed call waits for its next attempt; give each run its own with
    `watched_by`, since the connection is shared.
    """

    link_is_emulated = False

    def __init__(
        self,
        endpoint: Endpoint,
        tokenizer: Tokenizer,
        capabilities: Capabilities,
        connection: Connection,
        protocol: WireProtocol,
        on_wait: OnWait | None = None,
    ) -> None:
        """Wrap an open connection; prefer `connect`.

        Args:
            endpoint: where the server is.
            tokenizer: of the target.
            capabilities: what the probe found.
            connection: to the endpoint.
            protocol: that the capabilities name.
            on_wait: told about waits before another attempt.
        """
        self.endpoint = endpoint
        self.tokenizer = tokenizer
        self.capabilities = capabilities
        self._connection = connection
        self._protocol = protocol
        self._on_wait = on_wait
        self.name = endpoint.model
        self.backend = capabilities.protocol
        self.vocab_size = capabilities.vocab_size
        self.context_length = capabilities.context_length

    @property
    def quota(self) -> Quota | None:
        """Return what the server last said is left of its rate limits."""
        return self._connection.quota

    def exactness_for(self, sampler: Sampler) -> Exactness:
        return self.capabilities.exactness_for(sampler)

    def watched_by(self, on_wait: OnWait) -> RemoteTarget:
        """Return the same target, telling `on_wait` about its waits."""
        return RemoteTarget(
            self.endpoint,
            self.tokenizer,
            self.capabilities,
            self._connection,
            self._protocol,
            on_wait,
        )

    def start(self, prompt: Sequence[int]) -> RemoteTargetRun:
        """Begin a run; the prompt travels with the first call."""
        return RemoteTargetRun(self._protocol, self._connection, self.capabilities, self._on_wait)


class RemoteTargetRun:
    """A run keeps nothing here: every call carries its whole context."""

    def __init__(
        self,
        protocol: WireProtocol,
        connection: Connection,
        capabilities: Capabilities,
        on_wait: OnWait | None,
    ) -> None:
        self._protocol = protocol
        self._connection = connection
        self._capabilities = capabilities
        self._on_wait = on_wait

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        answer = self._protocol.ask(self._connection, context, draft, self._on_wait)
        link_s = 0.0 if answer.server_s is None else max(0.0, answer.call_s - answer.server_s)
        logits = [None if row is None else self._logits(row) for row in answer.rows]
        return Scores(logits, link_s, answer.retry_s)

    def _logits(self, row: Row) -> NDArray[np.float32]:
        """Return logits [vocab_size], after checking that the row holds what it is exact for."""
        can = self._capabilities
        if can.names_ids and len(row) < min(can.top_logprobs, can.vocab_size):
            raise TargetError(
                f"The server returned {len(row)} of the {can.top_logprobs} likeliest tokens it "
                "had promised; connect again, so that it is probed anew."
            )
        if not len(row):
            raise TargetError(
                "None of the tokens that the server names is in the target's vocabulary; set the "
                "endpoint's tokenizer to that of its model."
            )
        return row.logits(can.vocab_size, can.top_logprobs)

    def close(self) -> None:
        """Leave the connection open for the next run."""
