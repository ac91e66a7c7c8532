"""Whether one run repeats another: everything is compared but the times.

With the same settings, weights and backend a run is reproducible to the last bit; across backends
or machines it is within a tolerance. The first difference of each kind is put into a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from specdec.records import RoundResult, TokenRecord
from specdec.runs.compare import (
    Divergence,
    SettingDifference,
    first_divergence,
    setting_differences,
)
from specdec.runs.run import Run


@dataclass(frozen=True, slots=True)
class RunDiff:
    """What a run does not repeat of another; `settings` are only named, they may well differ."""

    settings: tuple[SettingDifference, ...]
    output: Divergence | None
    rounds: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.output is not None or bool(self.rounds)


def diff_runs(one: Run, other: Run, *, tolerance: float = 0.0) -> RunDiff:
    """Compare outputs and every recorded decision, but no times.

    Args:
        one: the reference.
        other: what should repeat it.
        tolerance: how far probabilities, log-probabilities and entropies may lie apart.

    Returns:
        A `RunDiff`, which is true if there is a difference; `rounds` has one sentence for the
        first difference of each kind.
    """
    found: dict[str, str] = {}
    for left, right in zip(one.rounds, other.rounds, strict=False):
        for kind, sentence in _round_differences(left, right, tolerance).items():
            found.setdefault(kind, sentence)
    if len(one.rounds) != len(other.rounds):
        found["rounds"] = f"{len(one.rounds)} rounds against {len(other.rounds)}"
    return RunDiff(
        setting_differences([one, other]), first_divergence(one, other), tuple(found.values())
    )


def _round_differences(left: RoundResult, right: RoundResult, tolerance: float) -> dict[str, str]:
    pairs = [("final", left.final, right.final)]
    pairs += [
        (f"draft {place}", a, b)
        for place, (a, b) in enumerate(zip(left.candidates, right.candidates, strict=False))
    ]
    found = {}
    if left.num_drafted != right.num_drafted:
        found["num_drafted"] = (
            f"round {left.round}: {left.num_drafted} drafted tokens against {right.num_drafted}"
        )
    for what, a, b in pairs:
        for name, values in _record_differences(a, b, tolerance).items():
            found.setdefault(
                name, f"round {left.round}, {what}: {name} is {values[0]} against {values[1]}"
            )
    return found


def _record_differences(
    one: TokenRecord | None, other: TokenRecord | None, tolerance: float
) -> Mapping[str, tuple[object, object]]:
    if one is None or other is None:
        return (
            {} if one is other else {"token_id": (one and one.token_id, other and other.token_id)}
        )
    values = {
        spec.name: (getattr(one, spec.name), getattr(other, spec.name))
        for spec in fields(TokenRecord)
        if spec.name != "top_tokens"
    }
    return {name: pair for name, pair in values.items() if not _alike(*pair, tolerance)}


def _alike(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return (
            one == other or abs(one - other) <= tolerance or (math.isnan(one) and math.isnan(other))
        )
    return one == other
