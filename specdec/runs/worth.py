"""Is speculation worth it here? What this run's own costs and acceptance predict for every K.

A round with K drafted tokens costs K·d + v(K) + l: drafting, the target's call, the link. v is a
straight line through two measurements, plain decoding (K = 0) and this run. It yields 1 + Σ s_i
tokens, where s_i is the product of the conditional acceptance rates up to i. K = 0 is the measured
baseline itself, and it may well be the best.
"""

from __future__ import annotations

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

    def round_s(self, num_draft_tokens: int) -> float:
        per_token_s = self.draft_s + self.extra_s
        return self.call_s + self.link_s + num_draft_tokens * per_token_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted tokens per second by K from 0, and the points that were measured."""

    costs: Costs
    acceptance: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    measured: tuple[tuple[int, float], ...]

    @property
    def best(self) -> int:
        return max(range(len(self.tokens_per_s)), key=self.tokens_per_s.__getitem__)


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
    costs = _costs(rounds, summary, baseline)
    if min(costs.round_s(0), costs.round_s(MAX_NUM_DRAFT_TOKENS)) <= 0:
        return None  # the times of a file that somebody wrote by hand
    acceptance = _acceptance(summary, alpha)
    predicted = tuple(
        predicted_tokens_per_round(acceptance[:k]) / costs.round_s(k)
        for k in range(MAX_NUM_DRAFT_TOKENS + 1)
    )
    return Forecast(costs, acceptance, predicted, ((0, baseline.tokens_per_s), *_measured(rounds)))


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
    """Return (K, tokens per second) for each K that was set in this run, plain rounds aside."""
    by_k = sorted(rounds, key=lambda r: r.num_draft_tokens)
    points = []
    for k, group in groupby(by_k, key=lambda r: r.num_draft_tokens):
        same = list(group)
        wall_s = sum(r.wall_s for r in same)
        if k and wall_s > 0:
            points.append((k, sum(len(r.emitted) for r in same) / wall_s))
    return points


def reason(prediction: Forecast) -> str:
    """Say in one sentence what is best here and why."""
    costs, best = prediction.costs, prediction.best
    first = prediction.acceptance[0]
    saved_ms = 1e3 * first * (costs.call_s + costs.link_s)
    price_ms = 1e3 * (costs.draft_s + costs.extra_s)
    link = f" and {1e3 * costs.link_s:.0f} ms of network" if costs.link_s > 0 else ""
    why = (
        f"a call of the target costs {1e3 * costs.call_s:.0f} ms{link}, so a first drafted token "
        f"saves {saved_ms:.0f} ms on average ({percent(first)} are accepted) and costs "
        f"{price_ms:.0f} ms to draft and check"
    )
    if best == 0:
        return f"Plain decoding (K = 0) is best here: {why}."
    gain = prediction.tokens_per_s[best] / prediction.tokens_per_s[0]
    return f"K = {best} is best here, {gain:.2f} times plain decoding: {why}."
