"""One round told step by step, with its own numbers: where the algorithm is taught."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from specdec.block import BLOCK_RULE
from specdec.records import RoundResult, TokenRecord, TokenStatus, TopToken
from specdec.view.facts import TextOf, is_ratio, visible
from specdec.view.palette import LOOKS

NameOf = Callable[[TokenRecord], str]


@dataclass(frozen=True, slots=True)
class Bar:
    """One token at a position: its probability by draft, by target, and in the residual."""

    token: str
    draft_prob: float | None
    target_prob: float | None
    residual_prob: float | None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One line of the table of candidates; None where there was no test."""

    place: int
    after: str
    token: str
    draft_prob: float | None
    target_prob: float | None
    ratio: float | None
    acceptance_prob: float | None
    uniform: float | None
    verdict: str


def candidate_rows(result: RoundResult, text_of: TextOf) -> list[CandidateRow]:
    """Return the round's candidates and its final token, in output order."""
    records = [*result.candidates, *([result.final] if result.final else [])]
    return [
        CandidateRow(
            place=record.position - result.position + 1,
            after=visible(text_of(result.candidates[record.parent].token_id))
            if record.parent >= 0
            else "",
            token=visible(text_of(record.token_id)),
            draft_prob=q,
            target_prob=p,
            ratio=None if result.temperature == 0 else _ratio(record),
            acceptance_prob=record.acceptance_prob,
            uniform=record.uniform,
            verdict=f"{LOOKS[record.status].glyph} {record.status}",
        )
        for record in records
        for q, p in [told_probs(record, result)]
    ]


def told_probs(
    record: TokenRecord | TopToken, result: RoundResult
) -> tuple[float | None, float | None]:
    """Return draft's and target's probability of a token as a round is told with, everywhere.

    Those that were tested, after temperature and top-p. At temperature 0 these are 0 and 1 and say
    nothing, so the models' own are told.
    """
    if result.temperature == 0:
        return _exp(record.draft_logprob), _exp(record.target_logprob)
    return record.draft_prob, record.target_prob


def _ratio(record: TokenRecord) -> float | None:
    if record.acceptance_prob is None or not record.draft_prob or record.target_prob is None:
        return None
    return record.target_prob / record.draft_prob


def steps(result: RoundResult, text_of: TextOf) -> Iterator[str]:
    """Tell the round, one sentence per step; the sentences are plain text."""
    greedy = result.temperature == 0
    is_block = result.rule == BLOCK_RULE

    def name(record: TokenRecord) -> str:
        return f"“{visible(text_of(record.token_id))}”"

    if result.reason:
        yield f"{result.policy.capitalize()} policy: {result.reason.rstrip('.')}."
    if result.candidates:
        drafted = ", ".join(map(name, result.candidates))
        how = (
            "one token after the other"
            if result.depth == result.num_drafted
            else f"as a tree of {result.num_drafted} tokens, up to {result.depth} deep"
        )
        yield (
            f"The draft ({result.drafting}) proposed {drafted} in "
            f"{1e3 * result.draft_s:.0f} ms, {how}."
        )
        yield (
            f"The target scored {_all_of(len(result.candidates))} in one call of "
            f"{1e3 * result.verify_s:.0f} ms{_link_words(result)}{_sequences_words(result)}."
        )
    else:
        yield (
            f"Nothing was drafted; the target was called for one token "
            f"({1e3 * result.verify_s:.0f} ms{_link_words(result)})."
        )
    for record in result.candidates:
        if record.acceptance_prob is not None and record.uniform is not None:
            if greedy:
                yield _greedy_test(record, result, name)
            else:
                yield _block_test(record, name) if is_block else _test(record, name)
    num_discarded = sum(c.status is TokenStatus.DISCARDED for c in result.candidates)
    if num_discarded:
        was = "token was" if num_discarded == 1 else "tokens were"
        yield f"{num_discarded} drafted {was} never tested and discarded with it."
    if result.final is not None:
        yield _final(result, result.final, name(result.final), greedy)
    emitted = len(result.emitted)
    yield (f"So one call of the target gave {emitted} {'token' if emitted == 1 else 'tokens'}.")


def _all_of(count: int) -> str:
    return "it" if count == 1 else f"all {count}"


def _sequences_words(result: RoundResult) -> str:
    """Say so where a target takes no tree, or no draft, in one piece, which costs more."""
    if result.num_sequences <= 1:
        return ""
    return (
        f", as {result.num_sequences} sequences instead of one: what these have in common is "
        "computed again wherever the target does not keep it"
    )


def _link_words(result: RoundResult) -> str:
    if result.link_s <= 0:
        return ""
    states = result.state_bytes
    sent = f", with {states / 1e3:.0f} kB of hidden states for the draft" if states else ""
    return f", {1e3 * result.link_s:.0f} ms of it on the network{sent}"


def _test(record: TokenRecord, name: NameOf) -> str:
    assert record.acceptance_prob is not None
    assert record.uniform is not None
    p, q = record.target_prob or 0.0, record.draft_prob or 0.0
    passed = record.status is TokenStatus.ACCEPTED
    drawn = f"{record.uniform:.3f} was drawn, {'below it' if passed else 'not below it'}"
    sides = f"the target gives it p = {p:.3f} and the draft q = {q:.3f}"
    if not is_ratio(record):
        chance = (
            f"{sides}; by what its elder siblings left of p it passes with probability "
            f"{record.acceptance_prob:.3f}; {drawn}"
        )
    elif record.acceptance_prob >= 1:
        chance = f"{sides}, no more than that, so it is sure to pass"
    else:
        chance = (
            f"{sides}, so it passes with probability p/q = {record.acceptance_prob:.3f}; {drawn}"
        )
    return f"{name(record)}: {chance}: {record.status}."


def _block_test(record: TokenRecord, name: NameOf) -> str:
    p, q = record.target_prob or 0.0, record.draft_prob or 0.0
    passed = record.status is TokenStatus.ACCEPTED
    return (
        f"{name(record)}: the target gives it p = {p:.3f} and the draft q = {q:.3f}; the chain "
        f"taken as a whole, it is kept with probability {record.acceptance_prob:.3f}; "
        f"{record.uniform:.3f} was drawn, {'below it' if passed else 'not below it'}: "
        f"{record.status}."
    )


def _greedy_test(record: TokenRecord, result: RoundResult, name: NameOf) -> str:
    sides = zip(("q", "p"), told_probs(record, result), strict=True)
    known = ", ".join(f"{side} = {prob:.3f}" for side, prob in sides if prob is not None)
    own = f" ({known})" if known else ""
    if record.status is TokenStatus.ACCEPTED:
        return f"{name(record)} is the target's likeliest token too{own}: accepted."
    return f"{name(record)} is not the target's likeliest token{own}: rejected."


def _final(result: RoundResult, final: TokenRecord, token: str, greedy: bool) -> str:
    if final.status is TokenStatus.RESAMPLED and greedy:
        return f"The target's likeliest token {token} takes its place."
    if final.status is TokenStatus.RESAMPLED:
        return _replacement(result, token)
    if result.candidates:
        passed = "Every token" if result.num_accepted == result.num_drafted else "A whole path"
        return f"{passed} passed, so {token} came from the target as a bonus, at no extra call."
    return f"The target chose {token}."


def _replacement(result: RoundResult, token: str) -> str:
    """Say what the resampled token was drawn from."""
    mass, siblings = _residual_mass(result), len(_rejected_before(result))
    share = "" if mass is None else f", which is {mass:.3f} of its probability"
    if result.rule == BLOCK_RULE:
        source = "what the target lacks after all that the chain was given credit for"
    elif siblings > 1:
        source = f"what the residual still holds after {siblings} candidates were rejected in turn"
    else:
        source = (
            "the residual max(0, p − q), made to sum to 1: what the target wants and the draft "
            f"under-rated{share}"
        )
    return (
        f"In its place {token} was drawn from {source}. This makes up exactly for the acceptances, "
        "so the output follows p."
    )


def _rejected_before(result: RoundResult) -> list[TokenRecord]:
    """Return the candidates that were rejected where the accepted path ends.

    What they left is what the final token is drawn from; elder siblings of a token that was
    accepted left nothing that counts.
    """
    path = [i for i, c in enumerate(result.candidates) if c.status is TokenStatus.ACCEPTED]
    end = path[-1] if path else -1
    return [c for c in result.candidates if c.parent == end and c.status is TokenStatus.REJECTED]


def _residual_mass(result: RoundResult) -> float | None:
    """Return Σ max(0, p − q) where that is what was left: after one candidate, tested by itself."""
    rejected = _rejected_before(result)
    if len(rejected) != 1 or result.rule == BLOCK_RULE:
        return None
    expected = rejected[0].expected_acceptance
    return None if expected is None else max(0.0, 1.0 - expected)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place of the round's tree where one token was to come next: what competed for it.

    Attributes:
        parent: the candidate that it comes after, −1 for the text before the round.
        position: in the output, counted from 0.
        records: the siblings, in the order of their tests, and the final token if it stands here.
    """

    parent: int
    position: int
    records: tuple[TokenRecord, ...]


def spots(result: RoundResult) -> list[Spot]:
    """Return every place of the round's tree, by position, those of the walk first."""
    found: dict[int, list[TokenRecord]] = {}
    for record in (*result.candidates, *([result.final] if result.final else [])):
        found.setdefault(record.parent, []).append(record)
    made = [Spot(parent, here[0].position, tuple(here)) for parent, here in found.items()]
    return sorted(made, key=lambda spot: (spot.position, not _was_reached(result, spot.parent)))


def _was_reached(result: RoundResult, parent: int) -> bool:
    return parent < 0 or result.candidates[parent].status is TokenStatus.ACCEPTED


def spot_label(result: RoundResult, spot: Spot, text_of: TextOf) -> str:
    """Return a spot in a few words: its position, in a tree what it comes after, and its tokens."""

    def text(record: TokenRecord) -> str:
        return visible(text_of(record.token_id))

    after = ""
    if spot.parent >= 0 and result.num_drafted > result.depth:
        after = f" after {text(result.candidates[spot.parent])}"
    tokens = dict.fromkeys(map(text, spot.records))
    return f"{spot.position + 1}{after}: {' | '.join(tokens)}"


def default_spot(result: RoundResult) -> int:
    """Return the place in `spots` worth looking at first: where the walk ended in a rejection."""
    all_spots = spots(result)
    ends = [
        index
        for index, spot in enumerate(all_spots)
        if any(record in _rejected_before(result) for record in spot.records)
    ]
    reached = [i for i, spot in enumerate(all_spots) if _was_reached(result, spot.parent)]
    return (ends or reached)[-1]


def bars(result: RoundResult, spot: Spot, text_of: TextOf) -> list[Bar]:
    """Return p against q over both sides' likeliest tokens at a spot.

    q is what the first of the siblings was drawn from; see `told_probs`. The residual is given
    where one candidate was rejected by itself, normalised over the whole vocabulary; what several
    siblings or a block leave depends on more than is kept.
    """
    here = spot.records
    probs: dict[int, tuple[float | None, float | None]] = {}
    for record in here:
        for top in record.top_tokens:
            probs.setdefault(top.token_id, told_probs(top, result))
    for record in here:
        probs.setdefault(record.token_id, told_probs(record, result))
    is_end = any(record in here for record in _rejected_before(result))
    mass = _residual_mass(result) if is_end and result.temperature > 0 else None
    rows = [
        Bar(visible(text_of(token_id)), q, p, _residual(p, q, mass))
        for token_id, (q, p) in probs.items()
    ]
    return sorted(rows, key=lambda bar: (-(bar.target_prob or 0.0), -(bar.draft_prob or 0.0)))


def _exp(logprob: float | None) -> float | None:
    # A file may claim more than certainty, which may be more than a float can hold.
    return None if logprob is None else math.exp(min(logprob, 0.0))


def _residual(p: float | None, q: float | None, mass: float | None) -> float | None:
    if mass is None or mass <= 0 or p is None:
        return None
    return max(0.0, p - (q or 0.0)) / mass
