"""A recorded run at another K, over another link, with a draft of another cost: what if.

Whether a drafted token passes depends neither on how many follow it nor on the link. So the rounds
of a run at a smaller K can be read off the recorded ones: a draft that is cut ends its round a
token later with what stands there, and the next round begins inside the old draft, whose rest is
what would be drafted now. At temperature 0 that is, token for token, the run that would have been;
above it one possible run, with the same coins. It holds for drafts that depend on the context alone
and stand in a chain. Where a round would need a token that nobody drafted, the recorded drafts do
not suffice, and the formula of `specdec.runs.worth` predicts instead. Times follow from costs; of a
run without a baseline nobody knows what plain decoding takes, nor what a shorter draft saves the
target, so its times are compared with its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from specdec.metrics import tested_per_pos
from specdec.records import FIXED_POLICY, RoundResult, TokenStatus
from specdec.runs.run import Run
from specdec.runs.worth import Costs, Outlook, costs_of, outlook, tree_widths

_WITH_MEMORY = frozenset({"ngram", "ngram-saved", "suffix", "lookahead", "none"})
"""What these propose inside an old draft is not its rest."""


class Known(StrEnum):
    """How a run that was not made is known."""

    EXACT = "exact"
    """It would have been this one, round for round."""
    POSSIBLE = "possible"
    """It could have been this one: the coins of the record decide."""
    PREDICTED = "predicted"
    """The formula says what to expect."""


@dataclass(frozen=True, slots=True)
class CutRound:
    """A round of a run that was not made; accepted are those of its drafts that were written."""

    position: int
    num_drafted: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A run that was not made.

    Attributes:
        known: how.
        num_tokens: as many as were recorded.
        num_rounds: calls of the target; an expected value if predicted.
        num_drafted: tokens, likewise.
        seconds: of decoding.
        recorded_s: of the run that was made, as it was made.
        plain_s: of plain decoding over the same link; None without a baseline.
    """

    known: Known
    num_tokens: int
    num_rounds: float
    num_drafted: float
    seconds: float
    recorded_s: float
    plain_s: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def times_plain(self) -> float | None:
        """Return how many times as fast as plain decoding over the same link it would be."""
        return None if self.plain_s is None else self.plain_s / self.seconds

    @property
    def times_recorded(self) -> float:
        """Return how many times as fast as the recorded run it would be."""
        return self.recorded_s / self.seconds


def what_if(
    run: Run, num_draft_tokens: int, link_s: float, draft_factor: float = 1.0
) -> WhatIf | None:
    """Return a run under other circumstances; None where its own say nothing about them.

    Args:
        run: with its rounds; without a baseline, a call is taken to cost the same at any K.
        num_draft_tokens: K, from 0.
        link_s: round trip of each call.
        draft_factor: what drafting costs, in times of what it did.
    """
    if not run.token_ids or not run.summary.num_target_calls:
        return None
    baseline = run.baseline if run.baseline is not None and run.baseline.num_tokens else None
    measured = costs_of(run.summary, baseline)
    costs = replace(measured, draft_s=measured.draft_s * draft_factor, link_s=link_s)
    if costs.round_s(0) <= 0 or costs.draft_s < 0:
        return None  # the times of a file that somebody wrote by hand
    rounds = cut_rounds(run, num_draft_tokens)
    if rounds is not None:
        known, num_rounds, drafted, seconds = _read_off(run, rounds, costs)
    else:
        widths = tree_widths(run.rounds)
        found = outlook(run.summary, tested_per_pos(run.rounds), baseline, widths=widths)
        if found is None:
            return None
        found = replace(found, costs=costs)
        known, num_rounds, drafted, seconds = _predicted(run, found, num_draft_tokens)
    plain_s = None if baseline is None else len(run.token_ids) * costs.round_s(0)
    return WhatIf(
        known, len(run.token_ids), num_rounds, drafted, seconds, run.summary.decode_s, plain_s
    )


def cut_rounds(run: Run, num_draft_tokens: int) -> list[CutRound] | None:
    """Return the rounds at a smaller K; None where the recorded drafts do not suffice."""
    if num_draft_tokens and not _is_readable(run.rounds, num_draft_tokens):
        return None
    passed = _passed(run.rounds)
    num_tokens = len(run.token_ids)
    limit = num_tokens if run.config is None else run.config.max_tokens
    rounds: list[CutRound] = []
    position = 0
    while position < num_tokens:
        drafted = max(0, min(num_draft_tokens, limit - position - 1))
        accepted = 0
        while accepted < drafted and position + accepted < num_tokens:
            has_passed = passed.get(position + accepted)
            if has_passed is None:
                return None
            if not has_passed:
                break
            accepted += 1
        rounds.append(CutRound(position, drafted, accepted))
        position += accepted + 1
    return rounds


def _is_readable(rounds: Iterable[RoundResult], num_draft_tokens: int) -> bool:
    return all(
        one.policy == FIXED_POLICY
        and one.rule == "token"
        and one.drafter not in _WITH_MEMORY
        and not one.reads_states  # deep in a draft a head continues its own features
        and not set(one.drafter) & set("+|")
        and one.num_drafted == one.depth
        and one.num_draft_tokens >= num_draft_tokens
        for one in rounds
    )


def _passed(rounds: Iterable[RoundResult]) -> dict[int, bool]:
    """Return by output position whether a token drafted there passed, where one was tested."""
    return {
        candidate.position: candidate.status is TokenStatus.ACCEPTED
        for one in rounds
        for candidate in one.candidates
        if candidate.status in (TokenStatus.ACCEPTED, TokenStatus.REJECTED)
    }


def _read_off(run: Run, rounds: list[CutRound], costs: Costs) -> tuple[Known, float, float, float]:
    """Return how it is known, rounds, drafted tokens, seconds."""
    drafted = sum(one.num_drafted for one in rounds)
    seconds = sum(costs.round_s(one.num_drafted) for one in rounds)
    is_greedy = all(one.temperature == 0 for one in run.rounds)
    return Known.EXACT if is_greedy else Known.POSSIBLE, len(rounds), drafted, seconds


def _predicted(
    run: Run, found: Outlook, num_draft_tokens: int
) -> tuple[Known, float, float, float]:
    """Return the same, expected."""
    num_tokens = len(run.token_ids)
    rounds = num_tokens / found.tokens_per_round(num_draft_tokens)
    drafted = rounds * found.drafted_per_round(num_draft_tokens)
    return Known.PREDICTED, rounds, drafted, num_tokens / found.tokens_per_s(num_draft_tokens)
