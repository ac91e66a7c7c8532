"""Is speculation worth it here? What this run's own costs and acceptance predict for every K.

A round with n drafted tokens costs n·d + v(n) + l: drafting, the target's call, the link. v is a
straight line through two measurements, plain decoding (n = 0) and this run. It yields 1 + Σ s_i
tokens, where s_i is the product of the conditional acceptance rates up to i, as many as the draft
is deep. A chain of K tokens is K deep; a tree has more nodes than that, and they all cost: of a run
with trees, the forecast is for the same trees cut off at another depth. K = 0 is the measured
baseline itself, and it may well be the best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from specdec.metrics import Baseline, conditional_acceptance, predicted_tokens_per_round
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
    """What each further position adds to a call."""
    link_s: float
    """The network's share of a call."""

    def round_s(self, num_draft_tokens: float) -> float:
        per_token_s = self.draft_s + self.extra_s
        return self.call_s + self.link_s + num_draft_tokens * per_token_s


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


def forecast(
    rounds: Sequence[RoundResult], summary: RunSummary, alpha: float | None, baseline: Baseline
) -> Forecast | None:
    """Predict the speed for K from 0 to 16; None where nothing was drafted, or took no time.

    Args:
        rounds: of this run.
        summary: their totals.
        alpha: mean acceptance of a tested position.
        baseline: plain decoding of the same target over the same link.
    """
    if alpha is None or not summary.num_draft_tokens:
        return None
    costs, num_nodes = _costs(rounds, summary, baseline), _nodes_by_depth(rounds)
    if min(map(costs.round_s, num_nodes)) <= 0:
        return None  # the times of a file that somebody wrote by hand
    acceptance = _acceptance(summary, alpha)
    predicted = tuple(
        predicted_tokens_per_round(acceptance[:k]) / costs.round_s(count)
        for k, count in enumerate(num_nodes)
    )
    measured = ((0, baseline.tokens_per_s), *_measured(rounds))
    return Forecast(costs, acceptance, num_nodes, predicted, measured)


def _costs(rounds: Sequence[RoundResult], summary: RunSummary, baseline: Baseline) -> Costs:
    call_s = (baseline.decode_s - baseline.link_s) / baseline.num_tokens
    link_s = summary.link_s / summary.num_target_calls
    mean_drafted = summary.num_draft_tokens / summary.num_target_calls
    here_s = sum(r.wall_s - r.draft_s - r.link_s for r in rounds) / summary.num_target_calls
    return Costs(
        draft_s=summary.draft_s / summary.num_draft_tokens,
        call_s=call_s,
        extra_s=max(0.0, (here_s - call_s) / mean_drafted),
        link_s=link_s,
    )


def _nodes_by_depth(rounds: Sequence[RoundResult]) -> tuple[float, ...]:
    """Return the drafted tokens of a round cut off at depth 0 … 16.

    A depth is as wide as it was on average where it was reached, the next ones as the last.
    """
    widths = [
        Counter(one.position - result.position for one in result.candidates) for result in rounds
    ]
    counts = [0.0]
    width = 1.0
    for place in range(MAX_NUM_DRAFT_TOKENS):
        reached = [of_round[place] for of_round in widths if of_round[place]]
        width = sum(reached) / len(reached) if reached else width
        counts.append(counts[-1] + width)
    return tuple(counts)


def _acceptance(summary: RunSummary, alpha: float) -> tuple[float, ...]:
    """Return a_1 … a_16: measured where there were enough tests, their mean elsewhere."""
    tries = (summary.num_spec_steps, *summary.accepted_per_pos)
    measured = conditional_acceptance(summary)
    rates = [
        rate if rate is not None and count >= MIN_TRIES else alpha
        for rate, count in zip(measured, tries, strict=False)
    ]
    return tuple([*rates, *[alpha] * MAX_NUM_DRAFT_TOKENS][:MAX_NUM_DRAFT_TOKENS])


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
    price_ms = 1e3 * num_nodes[1] * (costs.draft_s + costs.extra_s)
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
