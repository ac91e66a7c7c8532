"""Totals, the rolling window, the measured baseline, and what the closed form predicts.

Rates are derived from counts kept per round; names and definitions are vLLM's. Two speed-ups are
reported, each against plain decoding of the same target *measured* on the same machine: over the
same link (one call per token crosses it) and without the link (the target decoding where it is).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from specdec.records import FinishReason, RoundResult, RunSummary, per_second

WINDOW_ROUNDS = 50


def summarise(
    rounds: Sequence[RoundResult],
    *,
    num_prompt_tokens: int,
    prefill_s: float,
    finish_reason: FinishReason,
    error: str | None = None,
) -> RunSummary:
    """Add the rounds of a run up; also for a run that was stopped or failed half-way.

    Args:
        rounds: all finished rounds, in order.
        num_prompt_tokens: length of the prompt in tokens.
        prefill_s: seconds spent reading it.
        finish_reason: why there are no more rounds.
        error: what went wrong, for `FinishReason.ERROR`.
    """
    speculative = [r for r in rounds if r.candidates]
    deepest = max((max(_depths(r)) + 1 for r in speculative), default=0)
    histogram = [0] * (deepest + 1) if speculative else []
    accepted, drafted = [0] * deepest, [0] * deepest
    for result in speculative:
        histogram[result.num_accepted] += 1
        for depth in range(max(_depths(result)) + 1):
            drafted[depth] += 1
            accepted[depth] += result.num_accepted > depth
    return RunSummary(
        finish_reason=finish_reason,
        num_prompt_tokens=num_prompt_tokens,
        num_tokens=sum(len(r.emitted) for r in rounds),
        num_spec_steps=len(speculative),
        num_target_calls=len(rounds),
        num_draft_tokens=sum(r.num_drafted for r in rounds),
        num_accepted_draft_tokens=sum(r.num_accepted for r in rounds),
        acceptance_histogram=tuple(histogram),
        accepted_per_pos=tuple(accepted),
        drafted_per_pos=tuple(drafted),
        prefill_s=prefill_s,
        draft_s=sum(r.draft_s for r in rounds),
        verify_s=sum(r.verify_s for r in rounds),
        link_s=sum(r.link_s for r in rounds),
        retry_s=sum(r.retry_s for r in rounds),
        sample_s=sum(r.sample_s for r in rounds),
        wall_s=prefill_s + sum(r.wall_s for r in rounds),
        ttft_s=rounds[0].started_s + rounds[0].wall_s if rounds else None,
        error=error,
    )


def _depths(result: RoundResult) -> list[int]:
    depths: list[int] = []
    for candidate in result.candidates:
        depths.append(0 if candidate.parent < 0 else depths[candidate.parent] + 1)
    return depths


@dataclass(frozen=True, slots=True)
class WindowStats:
    """The last rounds at a glance; None where nothing was measured yet."""

    num_rounds: int
    draft_acceptance_rate: float | None
    tokens_per_s: float | None
    draft_s: float | None
    verify_s: float | None


class RollingWindow:
    """The seed's dashboard numbers over the last `size` rounds, updated one round at a time."""

    def __init__(self, size: int = WINDOW_ROUNDS) -> None:
        self._rounds: deque[RoundResult] = deque(maxlen=size)

    def add(self, result: RoundResult) -> WindowStats:
        """Take one round in and return the window's means (latencies per round, in seconds)."""
        self._rounds.append(result)
        count = len(self._rounds)
        drafted = sum(r.num_drafted for r in self._rounds)
        wall_s = sum(r.wall_s for r in self._rounds)
        return WindowStats(
            num_rounds=count,
            draft_acceptance_rate=(
                sum(r.num_accepted for r in self._rounds) / drafted if drafted else None
            ),
            tokens_per_s=per_second(sum(len(r.emitted) for r in self._rounds), wall_s),
            draft_s=sum(r.draft_s for r in self._rounds) / count,
            verify_s=sum(r.verify_s for r in self._rounds) / count,
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """Plain decoding of the target, measured: `num_tokens` tokens, one call each.

    `decode_s` is the time of all calls over the link, `link_s` the share the link took.
    """

    num_tokens: int
    decode_s: float
    link_s: float

    @classmethod
    def from_rounds(cls, rounds: Sequence[RoundResult]) -> Baseline:
        """Take the measurement from rounds that drafted nothing."""
        assert all(not r.candidates for r in rounds)
        return cls(
            num_tokens=sum(len(r.emitted) for r in rounds),
            decode_s=sum(r.wall_s for r in rounds),
            link_s=sum(r.link_s for r in rounds),
        )

    @property
    def tokens_per_s(self) -> float:
        """One call per token over the same link."""
        return self.num_tokens / self.decode_s

    @property
    def tokens_per_s_without_link(self) -> float:
        """The target decoding by itself, where it is."""
        return self.num_tokens / (self.decode_s - self.link_s)

    def speedup(self, tokens_per_s: float) -> float:
        """Return how many times faster `tokens_per_s` is than one call per token over the link."""
        return tokens_per_s / self.tokens_per_s

    def speedup_without_link(self, tokens_per_s: float) -> float:
        """Return how many times faster `tokens_per_s` is than the target without the link."""
        return tokens_per_s / self.tokens_per_s_without_link


def conditional_acceptance(summary: RunSummary) -> tuple[float | None, ...]:
    """Return a_i: how often position i is accepted once position i − 1 was; None if never seen."""
    reached = (summary.num_spec_steps, *summary.accepted_per_pos[:-1])
    return tuple(
        accepted / tries if tries else None
        for accepted, tries in zip(summary.accepted_per_pos, reached, strict=False)
    )


def predicted_tokens_per_round(acceptance: Sequence[float]) -> float:
    """Return 1 + Σ s_i for conditional acceptance rates a_1 … a_K, with s_i = a_1 · … · a_i.

    With all a_i = α it is Leviathan's (1 − α^(K+1)) / (1 − α); without the assumption that they
    are alike it is exact.
    """
    return 1.0 + float(sum(accumulate(acceptance, mul)))
