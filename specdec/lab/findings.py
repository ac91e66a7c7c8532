"""What the cells of a sweep say besides speeds: by position, by prompt, and at what cost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from specdec.lab.plan import Arm, Plan
from specdec.lab.results import Condition, Measured, Outcome, Results

MAX_EXTREMES = 10


@dataclass(frozen=True, slots=True)
class PromptGain:
    """One prompt under one condition: how many times plain decoding an arm was there."""

    prompt: str
    kind: str
    seed: int
    times_plain: float
    tokens_per_s: float
    run_id: int | None


def prompt_gains(plan: Plan, results: Results, condition: Condition, arm: Arm) -> list[PromptGain]:
    """Return each measured prompt, the most helped first."""
    texts = {prompt.mark: prompt for prompt in plan.prompts}
    gains = []
    for ours, plain in results.pairs(condition, arm):
        facts = json.loads(ours.key)
        prompt = texts.get(facts["prompt"])
        if prompt is None or ours.is_predicted:
            continue
        speed = ours.tokens / ours.seconds
        gain = speed / (plain.tokens / plain.seconds)
        gains.append(PromptGain(prompt.text, prompt.kind, facts["seed"], gain, speed, ours.run_id))
    return sorted(gains, key=lambda one: -one.times_plain)


def extremes(gains: Sequence[PromptGain]) -> tuple[list[PromptGain], list[PromptGain]]:
    """Return the ten most helped and the ten least, none in both; the least helped first there."""
    half = min(MAX_EXTREMES, (len(gains) + 1) // 2)
    most, rest = list(gains[:half]), list(gains[half:])
    return most, rest[::-1][:MAX_EXTREMES]


def acceptance_by_position(
    results: Results, arms: Sequence[Arm], temperature: float
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Return s_1, s_2, … by draft and class of prompts, from its runs at the largest K.

    Acceptance does not depend on the link, so runs over all of them count.
    """
    longest: dict[str, Arm] = {}
    for arm in arms:
        known = longest.get(arm.label)
        if not arm.is_plain and (known is None or arm.num_draft_tokens > known.num_draft_tokens):
            longest[arm.label] = arm
    counts: dict[tuple[str, str], list[int]] = defaultdict(list)
    steps: dict[tuple[str, str], int] = defaultdict(int)
    for condition in results.conditions:
        if not condition.kind or condition.temperature != temperature:
            continue
        for label, arm in longest.items():
            for one in results.cells_of(condition, arm):
                _add(counts[label, condition.kind], one)
                steps[label, condition.kind] += one.totals.num_spec_steps if one.totals else 0
    return {
        place: tuple(count / steps[place] for count in of_place)
        for place, of_place in counts.items()
        if steps[place]
    }


def _add(counts: list[int], one: Measured) -> None:
    accepted = one.totals.accepted_per_pos if one.totals else ()
    counts += [0] * (len(accepted) - len(counts))
    for place, count in enumerate(accepted):
        counts[place] += count


def pareto_front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the arms that no other beats both in speed and in drafted tokens wasted."""
    known = [one for one in outcomes if one.wasted is not None]
    front: list[Outcome] = []
    for one in sorted(known, key=lambda one: (one.wasted or 0.0, -one.speedup.mean)):
        if not front or one.speedup.mean > front[-1].speedup.mean:
            front.append(one)
    return front
