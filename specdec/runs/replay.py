"""A saved run as the engine told it: the same events, each at the time it was measured at.

Whoever can show a live run can show a saved one. Nothing waits here: the speed of playing belongs
to whoever plays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from specdec.observe import NUM_TOP_TOKENS
from specdec.records import Drafted, Prefilled, TokenRecord, TokenStatus, TopToken
from specdec.runs.recorder import Frame, event_time_s
from specdec.runs.run import Run


def frames_of(run: Run) -> tuple[Frame, ...]:
    """Return the run's frames in order; of a run whose rounds are not known only the summary."""
    return tuple(_frames(run))


def _frames(run: Run) -> Iterator[Frame]:
    summary = run.summary
    if not run.is_summary_only:
        yield Frame(summary.prefill_s, Prefilled(summary.num_prompt_tokens, summary.prefill_s))
    now_s = summary.prefill_s
    for result, pieces in zip(run.rounds, run.round_pieces(), strict=True):
        if result.candidates:
            pending = tuple(map(_pending, result.candidates))
            drafted = Drafted(result.round, pending, result.started_s, result.draft_s)
            yield Frame(event_time_s(drafted), drafted)
        now_s = event_time_s(result)
        yield Frame(now_s, result, pieces)
    yield Frame(max(now_s, summary.wall_s), summary)


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
