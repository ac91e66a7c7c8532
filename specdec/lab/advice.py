"""One recommendation for each class of prompts and for all, with its reasons and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

from specdec.lab.plan import OWN_SERVER, Arm, Plan
from specdec.lab.predict import is_predictable
from specdec.lab.results import Condition, Measured, Outcome, Results
from specdec.metrics import Baseline
from specdec.records import RunSummary, percent
from specdec.runs.worth import Outlook, outlook

_LEAST_STEP = 1 / 64
"""How finely the acceptance is looked for at which a draft no longer pays."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to run under one condition.

    Attributes:
        condition: with its class of prompts.
        best: what is recommended; plain decoding where nothing beats it beyond the noise.
        rival: the fastest drafting arm where plain decoding is recommended, None elsewhere.
        alike: arms that these prompts do not tell from the best.
        turns_below_s: the round trip below which plain decoding is as fast; None where unknown.
        first_acceptance: share of first drafted tokens accepted, likewise.
        least_acceptance: the share at which plain decoding is as fast, likewise.
    """

    condition: Condition
    best: Outcome
    rival: Outcome | None
    alike: tuple[Outcome, ...]
    turns_below_s: float | None
    first_acceptance: float | None
    least_acceptance: float | None


def advise(results: Results, condition: Condition) -> Advice | None:
    """Return what to run under a condition, None where too little is measured to say.

    Args:
        results: with predictions, where the plan makes them.
        condition: which.
    """
    outcomes = results.outcomes(condition)
    drafting = [one for one in outcomes if not one.arm.is_plain]
    if not drafting or len(drafting) == len(outcomes):
        return None
    plain = next(one for one in outcomes if one.arm.is_plain)
    best: Outcome = outcomes[0]
    rival: Outcome | None = drafting[0] if best.arm.is_plain else None
    if plain.is_within_noise and plain.arm != best.arm and best.speedup.low is not None:
        best, rival = plain, drafting[0]
    told = drafting[0] if rival is None else rival
    found = pooled_outlook(results, condition, told.arm)
    k = told.arm.num_draft_tokens
    return Advice(
        condition,
        best,
        rival,
        tuple(
            one
            for one in outcomes
            if one.is_within_noise and one.arm != best.arm and one.speedup.low is not None
        ),
        None if found is None else found.break_even_link_s(k),
        None if found is None else found.share * found.acceptance[0],
        None if found is None else _least_acceptance(found, k, condition.rtt_ms / 1e3),
    )


def pooled_outlook(results: Results, condition: Condition, arm: Arm) -> Outlook | None:
    """Return what all prompts together say about an arm's draft, measured at its largest K there.

    None where nothing that the formula holds for was measured.
    """
    if not is_predictable(arm):
        return None
    same = [
        (one.arm.num_draft_tokens, place, one.arm)
        for place in _near(results.conditions, condition)
        for one in results.outcomes(place)
        if one.arm.draft == arm.draft and is_predictable(one.arm) and not one.is_predicted
    ]
    if not same:
        return None
    _, place, longest = max(same, key=lambda one: (one[0], -one[1].rtt_ms))
    pairs = [
        (ours, plain)
        for ours, plain in results.pairs(place, longest)
        if ours.totals is not None and plain.totals is not None
    ]
    if not pairs:
        return None
    ours, plain = ([pair[side] for pair in pairs] for side in (0, 1))
    theirs = _pooled(plain)
    baseline = Baseline(theirs.num_tokens, theirs.decode_s, theirs.link_s)
    tested = tuple(map(sum, zip_longest(*(one.tested for one in ours), fillvalue=0)))
    return outlook(_pooled(ours), tested, baseline)


def _near(conditions: Sequence[Condition], condition: Condition) -> list[Condition]:
    """Return a condition over any link."""
    return [
        replace(one) for one in conditions if replace(one, rtt_ms=condition.rtt_ms) == condition
    ]


def _pooled(cells: Sequence[Measured]) -> RunSummary:
    """Return the totals of all cells as if they were one run."""
    summaries = [one.totals for one in cells if one.totals is not None]
    values: dict[str, Any] = {}
    for field in fields(RunSummary):
        of_field = [getattr(one, field.name) for one in summaries]
        if isinstance(of_field[0], tuple):
            values[field.name] = tuple(map(sum, zip_longest(*of_field, fillvalue=0)))
        elif isinstance(of_field[0], int | float):
            values[field.name] = sum(of_field)
    return replace(summaries[0], **values | {"ttft_s": None})


def _least_acceptance(found: Outlook, num_draft_tokens: int, link_s: float) -> float | None:
    """Return the acceptance of first tokens at which this K is as fast as plain decoding."""
    plain = found.tokens_per_s(0, link_s)

    def speed(factor: float) -> float:
        rates = tuple(factor * rate for rate in found.acceptance)
        return replace(found, acceptance=rates).tokens_per_s(num_draft_tokens, link_s)

    low, high = 0.0, 1.0
    if speed(low) >= plain or speed(high) <= plain:
        return None
    while high - low > _LEAST_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if speed(middle) < plain else (low, middle)
    return found.share * found.acceptance[0] * high


# -- in words ------------------------------------------------------------------------------------


def sentences(advice: Advice) -> list[str]:
    """Return the recommendation, its reasons, and the conditions under which it turns."""
    said = [_recommendation(advice)]
    if advice.alike and advice.rival is None:
        arms = [_arm_words(one.arm) for one in advice.alike[:3]]
        more = len(advice.alike) - len(arms)
        said.append(
            f"These prompts do not tell it from {', '.join(arms)}"
            + (f" and {more} more." if more else ".")
        )
    said += _turns(advice)
    if advice.best.is_predicted or (advice.rival is not None and advice.rival.is_predicted):
        said.append("Predicted from runs at another K or over another link, not run itself.")
    return said


def _recommendation(advice: Advice) -> str:
    best, rival = advice.best, advice.rival
    if rival is not None:
        return (
            f"Plain decoding: no draft is faster beyond the noise. The fastest, "
            f"{_arm_words(rival.arm)}, comes to {_times(rival)}."
        )
    accepted = "" if best.acceptance is None else f", {percent(best.acceptance)} accepted"
    return f"{_arm_words(best.arm)}: {_times(best)}{accepted}."


def _times(one: Outcome) -> str:
    low, high = one.speedup.low, one.speedup.high
    how = (
        f"95 % from {low:.2f} to {high:.2f}"
        if low is not None and high is not None
        else "too few prompts to say how sure"
    )
    return f"{one.speedup.mean:.2f} times plain decoding ({how}, {one.num_prompts} prompts)"


def _arm_words(arm: Arm) -> str:
    has_no_k = arm.is_plain or arm.draft == OWN_SERVER
    return arm.label if has_no_k else f"{arm.label} with K = {arm.num_draft_tokens}"


def _turns(advice: Advice) -> list[str]:
    said = []
    if advice.turns_below_s is not None:
        edge_ms = 1e3 * advice.turns_below_s
        if advice.rival is not None and edge_ms > advice.condition.rtt_ms:
            said.append(f"From {edge_ms:.0f} ms round trip on it would pay (predicted).")
        elif advice.rival is None and edge_ms < 0.5:
            said.append("It pays over any link, and with none (predicted).")
        elif advice.rival is None:
            said.append(f"Below {edge_ms:.0f} ms round trip plain decoding is as fast (predicted).")
    least, first = advice.least_acceptance, advice.first_acceptance
    if advice.rival is None and least is not None and first is not None:
        said.append(
            f"Plain decoding is as fast where a first drafted token is accepted in "
            f"{percent(least)} of rounds; here it is in {percent(first)} (predicted)."
        )
    return said


def conditions_to_advise(plan: Plan, temperature: float, rtt_ms: float) -> list[Condition]:
    """Return all prompts together and then each class, under one temperature and link."""
    kinds = sorted({prompt.kind for prompt in plan.prompts})
    return [
        Condition(temperature, rtt_ms, kind) for kind in ("", *(kinds if len(kinds) > 1 else ()))
    ]
