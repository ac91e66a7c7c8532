"""Is speculation worth it here? What a run's costs and acceptance predict for any K and link.

A round with n drafted tokens costs n·d + v(n) + l: drafting, the target's call, the link. v goes
from one width that was timed beside the run to the next; in runs that have none it is a straight
line through two measurements, plain decoding (n = 0) and the run itself. It yields 1 + Σ s_i
tokens, where s_i is the product of the conditional acceptance rates up to i, as many as the draft
is deep. A chain of K tokens is K deep; a tree has more nodes than that, and they all cost: of a run
with trees, the forecast is for the same trees cut off at another depth. Where a drafter had nothing
to propose, as prompt lookup often has not, a round drafts nothing and yields one token: how often a
round reached each position stays as it was. K = 0 is the measured baseline itself, and it may well
be the best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from specdec.metrics import Baseline, predicted_tokens_per_round, tested_per_pos
from specdec.records import RoundResult, RunSummary, percent
from specdec.settings import MAX_NUM_DRAFT_TOKENS

MIN_TRIES = 5
"""Fewer tests than this at a position say too little; the mean acceptance stands in for it."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one round costs here, in seconds, measured."""

    draft_s: float
    """Per drafted token."""
    call_s: float
    """A call that scores one position, sampling included, the link not."""
    extra_s: float
    """What each further position adds to a call on average, where no widths were timed."""
    link_s: float
    """The network's share of a call."""
    widths: tuple[tuple[int, float], ...] = ()
    """Drafted tokens and what they add to a call, shortest draft first, where that was timed."""

    def added_s(self, drafted: float) -> float:
        """Return what so many drafted tokens add to a call; beyond the widest, in proportion."""
        if not self.widths:
            return drafted * self.extra_s
        widest, added_s = self.widths[-1]
        if drafted > widest:
            return added_s * drafted / widest
        known, seconds = zip((0, 0.0), *self.widths, strict=True)
        return float(np.interp(drafted, known, seconds))

    def round_s(self, drafted: float, link_s: float | None = None, share: float = 1.0) -> float:
        """Return what a round costs on average.

        Args:
            drafted: tokens, the mean over all rounds.
            link_s: over this link instead of its own.
            share: of the rounds, those with a draft.
        """
        across_s = self.link_s if link_s is None else link_s
        added_s = share * self.added_s(drafted / share) if drafted else 0.0
        return self.call_s + across_s + drafted * self.draft_s + added_s


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run says about others of the same draft and target.

    Attributes:
        costs: of a round.
        acceptance: a_1 … a_16, conditional.
        share: of the rounds, those with a draft.
        drafted: tokens that a round drafts at each depth, 1 to 16, at K = 16.
    """

    costs: Costs
    acceptance: tuple[float, ...]
    share: float
    drafted: tuple[float, ...]

    def tokens_per_round(self, num_draft_tokens: int) -> float:
        """Return how many tokens a round yields at this K."""
        more = predicted_tokens_per_round(self.acceptance[:num_draft_tokens]) - 1.0
        return 1.0 + self.share * more

    def drafted_per_round(self, num_draft_tokens: int) -> float:
        """Return how many tokens a round drafts at this K."""
        return sum(self.drafted[:num_draft_tokens])

    def tokens_per_s(self, num_draft_tokens: int, link_s: float | None = None) -> float:
        """Return the speed at this K, over the run's own or another link."""
        round_s = self.round_s(num_draft_tokens, link_s)
        return self.tokens_per_round(num_draft_tokens) / round_s

    def round_s(self, num_draft_tokens: int, link_s: float | None = None) -> float:
        """Return what a round costs at this K, over the run's own or another link."""
        drafted = self.drafted_per_round(num_draft_tokens)
        return self.costs.round_s(drafted, link_s, self.share)

    def break_even_link_s(self, num_draft_tokens: int) -> float | None:
        """Return the round trip from which on this K beats plain decoding; None where none does."""
        more = self.tokens_per_round(num_draft_tokens) - 1.0
        if more <= 0:
            return None
        plain_s = self.costs.round_s(0, 0.0)
        round_s = self.round_s(num_draft_tokens, 0.0)
        return max(0.0, (round_s - (1.0 + more) * plain_s) / more)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted tokens per second by K from 0, and the points that were measured.

    K is how deep the draft is; `num_nodes[K]` are the drafted tokens of a round, K itself for a
    chain.
    """

    costs: Costs
    acceptance: tuple[float, ...]
    num_nodes: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    measured: tuple[tuple[int, float], ...]

    @property
    def best(self) -> int:
        return max(range(len(self.tokens_per_s)), key=self.tokens_per_s.__getitem__)

    @property
    def is_of_trees(self) -> bool:
        return self.num_nodes[-1] > len(self.num_nodes) - 1


def outlook(
    summary: RunSummary,
    tested: Sequence[int],
    baseline: Baseline | None,
    *,
    widths: Sequence[float] = (1.0,) * MAX_NUM_DRAFT_TOKENS,
) -> Outlook | None:
    """Return what a run says about other K and links; None where nothing was drafted.

    Args:
        summary: of the run.
        tested: how often each position was tested (`tested_per_pos`).
        baseline: plain decoding of the same target over the same link, where it was measured.
        widths: tokens beside each other at each depth, 1 to 16; those of a chain if not given.
    """
    has_drafted = summary.num_draft_tokens and summary.num_target_calls and sum(tested)
    if not has_drafted or not summary.drafted_per_pos:
        return None
    if baseline is not None and not baseline.num_tokens:
        return None
    costs, shares = costs_of(summary, baseline), _shares(summary)
    drafted = tuple(share * width for share, width in zip(shares, widths, strict=True))
    if min(costs.round_s(0), costs.round_s(sum(drafted))) <= 0:
        return None  # the times of a file that somebody wrote by hand
    return Outlook(costs, _acceptance(summary, tested), shares[0], drafted)


def forecast(
    rounds: Sequence[RoundResult], summary: RunSummary, baseline: Baseline
) -> Forecast | None:
    """Predict the speed for K from 0 to 16; None where nothing was drafted, or took no time.

    Args:
        rounds: of this run.
        summary: their totals.
        baseline: plain decoding of the same target over the same link.
    """
    widths = tree_widths(rounds)
    found = outlook(summary, tested_per_pos(rounds), baseline, widths=widths)
    if found is None:
        return None
    num_nodes = tuple(accumulate(widths, initial=0.0))
    predicted = tuple(map(found.tokens_per_s, range(MAX_NUM_DRAFT_TOKENS + 1)))
    measured = ((0, baseline.tokens_per_s), *_measured(rounds))
    return Forecast(found.costs, found.acceptance, num_nodes, predicted, measured)


def costs_of(summary: RunSummary, baseline: Baseline | None) -> Costs:
    """Return what a round of a run with target calls costs, nothing for drafts it did not have.

    Without a baseline, what further positions add to a call is not known, and counts as nothing: a
    call of any width costs what it did on average.
    """
    calls, drafted = summary.num_target_calls, summary.num_draft_tokens
    here_s = (summary.decode_s - summary.draft_s - summary.link_s) / calls
    call_s = here_s if baseline is None else baseline.computing_s
    return Costs(
        draft_s=summary.draft_s / drafted if drafted else 0.0,
        call_s=call_s,
        extra_s=max(0.0, (here_s - call_s) / (drafted / calls)) if drafted else 0.0,
        link_s=summary.link_s / calls,
        widths=() if baseline is None else baseline.added_s,
    )


def _acceptance(summary: RunSummary, tested: Sequence[int]) -> tuple[float, ...]:
    """Return a_1 … a_16: measured where there were enough tests, their mean elsewhere."""
    accepted = summary.accepted_per_pos
    alpha = sum(accepted) / sum(tested)
    rates = [
        passed / tries if tries >= MIN_TRIES else alpha
        for passed, tries in zip(accepted, tested, strict=False)
    ]
    return tuple([*rates, *[alpha] * MAX_NUM_DRAFT_TOKENS][:MAX_NUM_DRAFT_TOKENS])


def _shares(summary: RunSummary) -> tuple[float, ...]:
    """Return how often a round reached each position; beyond the run's K as at its last."""
    shares = [count / summary.num_target_calls for count in summary.drafted_per_pos]
    return tuple([*shares, *[shares[-1]] * MAX_NUM_DRAFT_TOKENS][:MAX_NUM_DRAFT_TOKENS])


def tree_widths(rounds: Sequence[RoundResult]) -> tuple[float, ...]:
    """Return how many drafted tokens stand beside each other at depth 1 … 16.

    A depth is as wide as it was on average where it was reached, the next ones as the last.
    """
    counted = [
        Counter(one.position - result.position for one in result.candidates) for result in rounds
    ]
    widths, width = [], 1.0
    for place in range(MAX_NUM_DRAFT_TOKENS):
        reached = [of_round[place] for of_round in counted if of_round[place]]
        width = sum(reached) / len(reached) if reached else width
        widths.append(width)
    return tuple(widths)


def _measured(rounds: Sequence[RoundResult]) -> list[tuple[int, float]]:
    """Return (K, tokens per second) for each K that was set in this run, plain rounds aside.

    A tree grows no deeper than K, and often less deep: it counts as deep as it was on average.
    """
    by_k = sorted(rounds, key=lambda r: r.num_draft_tokens)
    points = []
    for k, group in groupby(by_k, key=lambda r: r.num_draft_tokens):
        same = list(group)
        wall_s = sum(r.wall_s for r in same)
        if k and wall_s > 0:
            drafted = [r for r in same if r.candidates]
            if any(r.num_drafted > r.depth for r in drafted):
                k = round(sum(r.depth for r in drafted) / len(drafted))
            points.append((k, sum(len(r.emitted) for r in same) / wall_s))
    return points


def reason(prediction: Forecast) -> str:
    """Say in one sentence what is best here and why."""
    costs, best, num_nodes = prediction.costs, prediction.best, prediction.num_nodes
    first = prediction.acceptance[0]
    saved_ms = 1e3 * first * (costs.call_s + costs.link_s)
    price_ms = 1e3 * (num_nodes[1] * costs.draft_s + costs.added_s(num_nodes[1]))
    link = f" and {1e3 * costs.link_s:.0f} ms of network" if costs.link_s > 0 else ""
    if prediction.is_of_trees:
        drafted = f"a first level of {num_nodes[1]:.1f} nodes"
        taken = f"one of it is accepted {percent(first)} of the time"
    else:
        drafted, taken = "a first drafted token", f"{percent(first)} are accepted"
    why = (
        f"a call of the target costs {1e3 * costs.call_s:.0f} ms{link}, so {drafted} "
        f"saves {saved_ms:.0f} ms on average ({taken}) and costs "
        f"{price_ms:.0f} ms to draft and check"
    )
    if best == 0:
        return f"Plain decoding (K = 0) is best here: {why}."
    gain = prediction.tokens_per_s[best] / prediction.tokens_per_s[0]
    what = f"K = {best} is"
    if prediction.is_of_trees:
        what = f"A tree {best} deep ({num_nodes[best]:.0f} nodes) is"
    return f"{what} best here, {gain:.2f} times plain decoding: {why}."
