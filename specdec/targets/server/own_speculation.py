"""What a vLLM server says about its own speculation: counters of its `/metrics`, before and after.

The names are those of vLLM's Prometheus metrics (`vllm:spec_decode_*`, read with and without the
`_total` that clients of Prometheus add). They count the whole server: whatever others ask it in the
meantime is in them, too, so counts that one answer cannot explain are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from specdec.targets.server.faults import ServerFault
from specdec.targets.server.http import Connection

METRICS_PATH = "/metrics"
MAX_POSITIONS = 1024
_LINE = re.compile(
    r"^vllm:spec_decode_(num_drafts|num_draft_tokens|num_accepted_tokens(?:_per_pos)?)(?:_total)?"
    r"(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>[0-9.eE+]+)\s*$",
    re.MULTILINE,
)
_POSITION = re.compile(r'position="(\d{1,4})"')


@dataclass(frozen=True, slots=True)
class OwnSpeculation:
    """Counts of a server's own speculation; `accepted_per_pos[i]` is of drafts' position i."""

    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_per_pos: tuple[int, ...]

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Return accepted over drafted tokens, None where nothing was drafted."""
        if not self.num_draft_tokens:
            return None
        return self.num_accepted_tokens / self.num_draft_tokens

    @property
    def mean_acceptance_length(self) -> float | None:
        """Return tokens per drafted step, the one after the draft included."""
        if not self.num_drafts:
            return None
        return 1.0 + self.num_accepted_tokens / self.num_drafts

    @property
    def histogram(self) -> tuple[int, ...]:
        """Return how many drafts had 0, 1, 2, … tokens accepted."""
        reached = (self.num_drafts, *self.accepted_per_pos, 0)
        return tuple(one - after for one, after in pairwise(reached))

    def since(self, before: OwnSpeculation) -> OwnSpeculation | None:
        """Return what was counted since; None if the server began anew, or counts oddly."""
        padded = (*before.accepted_per_pos, *[0] * len(self.accepted_per_pos))
        found = OwnSpeculation(
            self.num_drafts - before.num_drafts,
            self.num_draft_tokens - before.num_draft_tokens,
            self.num_accepted_tokens - before.num_accepted_tokens,
            tuple(a - b for a, b in zip(self.accepted_per_pos, padded, strict=False)),
        )
        return found if found.is_sound else None

    @property
    def is_sound(self) -> bool:
        counts = (self.num_drafts, self.num_draft_tokens, self.num_accepted_tokens)
        return (
            min(*counts, *self.histogram) >= 0
            and self.num_accepted_tokens <= self.num_draft_tokens
            and sum(self.accepted_per_pos) == self.num_accepted_tokens
        )

    def explains(self, num_tokens: int) -> bool:
        """Say whether one answer of so many tokens can be all that was counted.

        Each draft writes one token besides those accepted; the last may have run past the end.
        """
        longest = len(self.accepted_per_pos)
        return self.num_drafts + self.num_accepted_tokens <= num_tokens + longest + 1


def read_counters(connection: Connection) -> OwnSpeculation | None:
    """Return the counters as they stand; None where the server keeps none or does not show them."""
    try:
        text = connection.get_text(METRICS_PATH)
    except ServerFault:
        return None
    totals: dict[str, int] = {}
    per_pos: dict[int, int] = {}
    for name, labels, value in _counted(text):
        if name != "num_accepted_tokens_per_pos":
            totals[name] = totals.get(name, 0) + value
        elif (found := _POSITION.search(labels)) and int(found[1]) < MAX_POSITIONS:
            per_pos[int(found[1])] = per_pos.get(int(found[1]), 0) + value
    return _counters(totals, per_pos)


def _counted(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield name, labels and value of each counter; several engines have one each."""
    for line in _LINE.finditer(text):
        try:
            value = int(float(line["value"]))
        except (ValueError, OverflowError):
            continue
        yield line[1], line["labels"] or "", value


def _counters(totals: Mapping[str, int], per_pos: Mapping[int, int]) -> OwnSpeculation | None:
    if "num_drafts" not in totals or "num_draft_tokens" not in totals:
        return None
    longest = max(per_pos, default=-1) + 1
    return OwnSpeculation(
        totals["num_drafts"],
        totals["num_draft_tokens"],
        totals.get("num_accepted_tokens", 0),
        tuple(per_pos.get(place, 0) for place in range(longest)),
    )
