"""What a round shows: token records made from a draft, the target's rows and a verdict.

Nothing here decides anything; it only writes down what the acceptance rule saw, so that every
step can be looked at later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specdec.acceptance import Draft, Verdict
from specdec.records import TokenRecord, TokenStatus, TopToken
from specdec.sampling import Distribution

NUM_TOP_TOKENS = 5
"""How many of each side's likeliest tokens a record keeps."""


def pending_records(draft: Draft, position: int) -> tuple[TokenRecord, ...]:
    """Describe drafted tokens before the target has answered; `position` is the first one's."""
    return tuple(
        TokenRecord(
            token_id=token_id,
            parent=parent,
            position=position + depth,
            status=TokenStatus.PENDING,
            draft_prob=1.0 if drawn_from is None else float(drawn_from.probs[token_id]),
            draft_logprob=None if drawn_from is None else drawn_from.logprob(token_id),
            draft_entropy=None if drawn_from is None else drawn_from.entropy,
            top_tokens=_top_tokens(drawn_from, None),
            drafted_by=member,
        )
        for token_id, parent, depth, drawn_from, member in zip(
            draft.token_ids,
            draft.parents,
            draft.depths,
            draft.distributions,
            draft.drafted_by or (None,) * len(draft),
            strict=True,
        )
    )


def verified_records(
    pending: Sequence[TokenRecord],
    draft: Draft,
    rows: Sequence[Distribution | None],
    verdict: Verdict,
) -> tuple[TokenRecord, ...]:
    """Complete pending records with the target's side and the outcome of each test.

    `rows[i + 1]` is the target's distribution after node i, `rows[0]` after the context.
    """
    return tuple(
        replace(
            record,
            status=test.status,
            target_prob=_prob(row, record.token_id)
            if test.target_prob is None
            else test.target_prob,
            target_logprob=None if row is None else row.logprob(record.token_id),
            acceptance_prob=test.acceptance_prob,
            uniform=test.uniform,
            expected_acceptance=test.expected_acceptance,
            target_entropy=None if row is None else row.entropy,
            top_tokens=_top_tokens(drawn_from, row),
        )
        for record, test, drawn_from, row in zip(
            pending,
            verdict.tests,
            draft.distributions,
            (rows[parent + 1] for parent in draft.parents),
            strict=True,
        )
    )


def final_record(
    position: int, draft: Draft, rows: Sequence[Distribution | None], verdict: Verdict
) -> TokenRecord | None:
    """Describe the resampled or bonus token of a round whose first token is at `position`."""
    if verdict.final_token is None:
        return None
    node = verdict.path[-1] if verdict.path else -1
    row = rows[node + 1]
    siblings = draft.children()[node + 1]
    drawn_from = draft.distributions[siblings[-1]] if siblings else None
    return TokenRecord(
        token_id=verdict.final_token,
        parent=node,
        position=position + len(verdict.path),
        status=verdict.final_status,
        target_prob=_prob(row, verdict.final_token),
        target_logprob=None if row is None else row.logprob(verdict.final_token),
        target_entropy=None if row is None else row.entropy,
        top_tokens=_top_tokens(drawn_from, row),
    )


def _prob(row: Distribution | None, token_id: int) -> float | None:
    return None if row is None else float(row.probs[token_id])


def _top_tokens(
    draft_side: Distribution | None, target_side: Distribution | None
) -> tuple[TopToken, ...]:
    """Return the union of both sides' likeliest tokens, the target's first."""
    ids: dict[int, None] = {}
    for side in (target_side, draft_side):
        if side is not None:
            ids.update(dict.fromkeys(side.top_ids(NUM_TOP_TOKENS)))
    return tuple(
        TopToken(
            token_id,
            _prob(draft_side, token_id),
            _prob(target_side, token_id),
            None if draft_side is None else draft_side.logprob(token_id),
            None if target_side is None else target_side.logprob(token_id),
        )
        for token_id in ids
    )
