"""Totals, the rolling window, the measured baseline, and what the closed form predicts.

Rates are derived from counts kept per round; names and definitions are vLLM's. Two speed-ups are
reported, each against plain decoding of the same target *measured* on the same machine: over the
same link (one call per token crosses it) and without the link (the target decoding where it is).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from statistics import median

from specdec.records import FinishReason, RoundResult, RunSummary, TokenStatus, per_second

WINDOW_ROUNDS = 50


class Totals:
    """The counts and times of a run so far; a round costs the same to add, however many there were.

    The one accumulator: engine, recorder, page, replay and command line all sum up with it.
    `link_s` is what the network took so far.
    """

    def __init__(self, rounds: Iterable[RoundResult] = ()) -> None:
        """Start with `rounds`, in order."""
        self._num_tokens = self._num_calls = self._num_drafted = 0
        self._num_resampled = 0
        self._histogram: list[int] = []
        self._accepted: list[int] = []
        self._drafted: list[int] = []
        self.link_s = self._draft_s = self._verify_s = 0.0
        self._retry_s = self._sample_s = self._wall_s = 0.0
        self._ttft_s: float | None = None
        for result in rounds:
            self.add(result)

    def add(self, result: RoundResult) -> None:
        """Take one more round in."""
        self._num_calls += 1
        self._num_tokens += len(result.emitted)
        self._num_drafted += result.num_drafted
        self._draft_s += result.draft_s
        self._verify_s += result.verify_s
        self.link_s += result.link_s
        self._retry_s += result.retry_s
        self._sample_s += result.sample_s
        self._wall_s += result.wall_s
        if self._ttft_s is None:
            self._ttft_s = result.started_s + result.wall_s
        final = result.final
        self._num_resampled += final is not None and final.status is TokenStatus.RESAMPLED
        if result.candidates:
            self._count_draft(result.depth, result.num_accepted)

    def _count_draft(self, depth: int, num_accepted: int) -> None:
        longer = depth - len(self._drafted)
        self._drafted += [0] * longer
        self._accepted += [0] * longer
        self._histogram += [0] * (depth + 1 - len(self._histogram))
        self._histogram[num_accepted] += 1
        for place in range(depth):
            self._drafted[place] += 1
            self._accepted[place] += num_accepted > place

    @property
    def mean_acceptance(self) -> float | None:
        """α: of the positions that were tested, the share at which a draft was accepted."""
        accepted = sum(self._accepted)
        tested = accepted + self._num_resampled
        return accepted / tested if tested else None

    def summary(
        self,
        *,
        num_prompt_tokens: int = 0,
        prefill_s: float = 0.0,
        finish_reason: FinishReason = FinishReason.STOPPED,
        error: str | None = None,
    ) -> RunSummary:
        """Return the totals of the rounds so far, also of a run that was stopped or failed.

        Args:
            num_prompt_tokens: length of the prompt in tokens.
            prefill_s: seconds spent reading it.
            finish_reason: why there are no more rounds.
            error: what went wrong, for `FinishReason.ERROR`.
        """
        return RunSummary(
            finish_reason=finish_reason,
            num_prompt_tokens=num_prompt_tokens,
            num_tokens=self._num_tokens,
            num_spec_steps=sum(self._histogram),
            num_target_calls=self._num_calls,
            num_draft_tokens=self._num_drafted,
            num_accepted_draft_tokens=sum(self._accepted),
            acceptance_histogram=tuple(self._histogram),
            accepted_per_pos=tuple(self._accepted),
            drafted_per_pos=tuple(self._drafted),
            prefill_s=prefill_s,
            draft_s=self._draft_s,
            verify_s=self._verify_s,
            link_s=self.link_s,
            retry_s=self._retry_s,
            sample_s=self._sample_s,
            wall_s=prefill_s + self._wall_s,
            ttft_s=self._ttft_s,
            error=error,
        )


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
class WideCall:
    """A call that scored `num_drafted` tokens more than one: its seconds, the link not counted."""

    num_drafted: int
    call_s: float


@dataclass(frozen=True, slots=True)
class Block:
    """Plain decoding in one go: the seconds of each call, in order, and the link's share of it.

    `wide` are calls right after these that scored more tokens than one; none in older files.
    """

    calls_s: tuple[float, ...]
    links_s: tuple[float, ...]
    wide: tuple[WideCall, ...] = ()

    @classmethod
    def of_rounds(cls, rounds: Sequence[RoundResult], wider: Sequence[RoundResult] = ()) -> Block:
        """Take the times from rounds that drafted nothing and wrote a token each, and from others.

        Args:
            rounds: of plain decoding.
            wider: rounds whose drafts cost nothing.
        """
        assert all(not r.candidates and len(r.emitted) == 1 for r in rounds)
        wide = tuple(
            WideCall(r.num_drafted, r.wall_s - r.draft_s - r.link_s) for r in wider if r.candidates
        )
        return cls(tuple(r.wall_s for r in rounds), tuple(r.link_s for r in rounds), wide)

    @property
    def computing_s(self) -> tuple[float, ...]:
        """The seconds of each call without the link."""
        pairs = zip(self.calls_s, self.links_s, strict=True)
        return tuple(call_s - link_s for call_s, link_s in pairs)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Plain decoding of the target, measured: `num_tokens` tokens, one call each.

    How sure what is compared with it is, `specdec.runs.speedup` says.

    Attributes:
        num_tokens: of all blocks.
        decode_s: the time of all calls over the link.
        link_s: the share the link took.
        blocks: call by call, one block before the run and one after it; none in older files.
        had_company: whether another run went on in this program at the same time.
    """

    num_tokens: int
    decode_s: float
    link_s: float
    blocks: tuple[Block, ...] = ()
    had_company: bool = False

    @classmethod
    def of_blocks(cls, *blocks: Block, had_company: bool = False) -> Baseline:
        """Sum up what was measured before and after a run."""
        return cls(
            num_tokens=sum(len(block.calls_s) for block in blocks),
            decode_s=sum(sum(block.calls_s) for block in blocks),
            link_s=sum(sum(block.links_s) for block in blocks),
            blocks=blocks,
            had_company=had_company,
        )

    @property
    def call_s(self) -> float:
        """A typical call over the link: the median of all, their mean in older files."""
        if not self.blocks:
            return self.decode_s / self.num_tokens
        return median(one for block in self.blocks for one in block.calls_s)

    @property
    def computing_s(self) -> float:
        """A typical call without the link."""
        if not self.blocks:
            return (self.decode_s - self.link_s) / self.num_tokens
        return median(one for block in self.blocks for one in block.computing_s)

    @property
    def added_s(self) -> tuple[tuple[int, float], ...]:
        """What drafts add to a typical call: (drafted tokens, seconds), shortest draft first.

        Each width was timed beside single calls of its block, so the machine of that moment drops
        out. Nothing where no width was timed.
        """
        shares: dict[int, list[float]] = {}
        for block in self.blocks:
            for one in block.wide:
                share = one.call_s / median(block.computing_s) - 1.0
                shares.setdefault(one.num_drafted, []).append(share)
        call_s = self.computing_s
        return tuple((n, max(0.0, median(of_n)) * call_s) for n, of_n in sorted(shares.items()))

    @property
    def link_call_s(self) -> float:
        """The link's share of a typical call."""
        return self.call_s - self.computing_s

    @property
    def tokens_per_s(self) -> float:
        """One call per token over the same link."""
        return 1.0 / self.call_s

    @property
    def tokens_per_s_without_link(self) -> float:
        """The target decoding by itself, where it is."""
        return 1.0 / self.computing_s


def conditional_acceptance(summary: RunSummary) -> tuple[float | None, ...]:
    """Return a_i: how often position i is accepted once position i − 1 was; None if never seen."""
    reached = (summary.num_spec_steps, *summary.accepted_per_pos[:-1])
    return tuple(
        accepted / tries if tries else None
        for accepted, tries in zip(summary.accepted_per_pos, reached, strict=False)
    )


def tested_per_pos(rounds: Iterable[RoundResult]) -> tuple[int, ...]:
    """Return how often the drafted token at each position was tested."""
    counts: list[int] = []
    for result in rounds:
        reached = min(result.num_accepted + 1, result.depth)
        counts += [0] * (reached - len(counts))
        for place in range(reached):
            counts[place] += 1
    return tuple(counts)


def predicted_tokens_per_round(acceptance: Sequence[float]) -> float:
    """Return 1 + Σ s_i for conditional acceptance rates a_1 … a_K, with s_i = a_1 · … · a_i.

    With all a_i = α it is Leviathan's (1 − α^(K+1)) / (1 − α); without the assumption that they
    are alike it is exact.
    """
    return 1.0 + float(sum(accumulate(acceptance, mul)))
