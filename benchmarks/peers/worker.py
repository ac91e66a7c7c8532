"""How a peer is asked to write: one JSON line in, one out, in a process that knows only the peer.

Nothing but the standard library is imported here: a peer's own Python runs it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass
class Written:
    """What came of one prompt.

    Attributes:
        token_ids: what was written.
        arrivals: (seconds since the call, tokens that came then), in order.
        calls: forward passes of the target that scored something, None where nobody tells.
    """

    token_ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    calls: int | None = None


class Clock:
    """Notes tokens as they come."""

    def __init__(self) -> None:
        self.written = Written()
        self._began_s = time.perf_counter()

    def note(self, token_ids: list[int]) -> None:
        self.written.token_ids += token_ids
        self.written.arrivals.append((time.perf_counter() - self._began_s, len(token_ids)))


class Peer(Protocol):
    """An engine with its models open."""

    version: str

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        """Write exactly `num_tokens` tokens after a prompt; end tokens do not end it."""
        ...

    def forward_ms(self, num_rows: int) -> float | None:
        """Return the milliseconds of one forward of the target over so many tokens after 64."""
        ...


def serve(open_peer: Callable[[dict[str, Any]], Peer]) -> None:
    """Open a peer as the command line's JSON says and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(document: dict[str, Any]) -> None:
        print(json.dumps(document), file=answers, flush=True)

    try:
        peer = open_peer(json.loads(sys.argv[1]))
    except Exception as error:
        answer({"missing": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    answer({"version": peer.version})
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`, in bytes
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "num_rows" in asked:
                answer({"forward_ms": peer.forward_ms(asked["num_rows"])})
                continue
            written = asdict(peer.write(**asked))
        except Exception as error:
            answer({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            continue
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        answer(written | {"peak_mb": peak / 1e6})
