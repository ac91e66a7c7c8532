"""A saved run as the engine told it: the same events, each at the time it was measured at.

Whoever can show a live run can show a saved one. Nothing waits here: the speed of playing belongs
to whoever plays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from specdec.observe import NUM_TOP_TOKENS
from specdec.records import Drafted, Event, Prefilled, TokenRecord, TokenStatus, TopToken
from specdec.runs.run import Run


@dataclass(frozen=True, slots=True)
class Moment:
    """One event and when it came, in seconds of the engine's time since the start of the run."""

    time_s: float
    event: Event


def timeline(run: Run) -> tuple[Moment, ...]:
    """Return the run's events in order; of a run whose rounds are not known only the summary."""
    return tuple(_moments(run))


def _moments(run: Run) -> Iterator[Moment]:
    summary = run.summary
    if not run.is_summary_only:
        yield Moment(summary.prefill_s, Prefilled(summary.num_prompt_tokens, summary.prefill_s))
    now_s = summary.prefill_s
    for result in run.rounds:
        if result.candidates:
            drafted = Drafted(
                result.round,
                tuple(map(_pending, result.candidates)),
                result.started_s,
                result.draft_s,
            )
            yield Moment(result.started_s + result.draft_s, drafted)
        now_s = result.started_s + result.wall_s
        yield Moment(now_s, result)
    yield Moment(max(now_s, summary.wall_s), summary)


def _pending(record: TokenRecord) -> TokenRecord:
    """Take from a verified record what only the target can have said."""
    return replace(
        record,
        status=TokenStatus.PENDING,
        target_prob=None,
        target_logprob=None,
        acceptance_prob=None,
        uniform=None,
        expected_acceptance=None,
        target_entropy=None,
        top_tokens=_drafts_own(record.top_tokens),
    )


def _drafts_own(top_tokens: tuple[TopToken, ...]) -> tuple[TopToken, ...]:
    """Return the likeliest tokens by the draft alone out of the union of both sides."""
    own = [top for top in top_tokens if top.draft_logprob is not None]
    own.sort(key=lambda top: (-(top.draft_logprob or 0.0), top.token_id))
    return tuple(
        replace(top, target_prob=None, target_logprob=None) for top in own[:NUM_TOP_TOKENS]
    )
