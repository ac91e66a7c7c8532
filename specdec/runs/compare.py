"""Runs side by side: what was set differently, what came out differently, and by how much.

Only pure functions over `Run`; what repetitions say about noise is in `specdec.runs.noise`, and
whether one run repeats another to the last bit in `specdec.runs.diff`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specdec.block import TOKEN_RULE
from specdec.codec import dumps, to_json
from specdec.drafters.recall import RecallDrafter
from specdec.records import FIXED_POLICY, RunSummary
from specdec.runs.noise import Interval
from specdec.runs.run import Run
from specdec.runs.speedup import MIN_CALLS, speedup_of

SAME_MACHINE = ("system", "machine", "processor", "num_cpus")
_ADDED_LATER = [("policy", FIXED_POLICY), ("tree", ""), ("rule", TOKEN_RULE)]
"""Settings that older runs do not have, with the value that says what those did."""


# -- key figures ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kpi:
    """One figure of a run, measured; `better` is "higher", "lower" or "" where neither is.

    `interval` says how sure it is, where one run can tell.
    """

    name: str
    label: str
    unit: str
    better: str
    meaning: str
    value: Callable[[Run], float | None]
    interval: Callable[[Run], Interval | None] = lambda run: None


def _speedup_interval(run: Run) -> Interval | None:
    found = speedup_of(run)
    return None if found is None else found.over_link


def _speedup(run: Run) -> float | None:
    found = _speedup_interval(run)
    return None if found is None else found.mean


KPIS = (
    Kpi(
        "tokens_per_s",
        "Tokens per second",
        "tokens/s",
        "higher",
        "Tokens written over decoding time; reading the prompt is not in it.",
        lambda r: r.summary.tokens_per_s,
    ),
    Kpi(
        "speedup",
        "Speed-up",
        "×",
        "higher",
        "How many times as fast as plain decoding by the same target over the same link, with its "
        f"95 % interval. None for a run of fewer than {MIN_CALLS} target calls.",
        _speedup,
        _speedup_interval,
    ),
    Kpi(
        "draft_acceptance_rate",
        "Draft acceptance rate",
        "",
        "higher",
        "Accepted over drafted tokens sent to the target.",
        lambda r: r.summary.draft_acceptance_rate,
    ),
    Kpi(
        "mean_acceptance_length",
        "Mean acceptance length",
        "tokens",
        "higher",
        "1 + accepted tokens over rounds with a draft: one more token comes with each round.",
        lambda r: r.summary.mean_acceptance_length,
    ),
    Kpi(
        "tokens_per_target_call",
        "Tokens per target call",
        "tokens",
        "higher",
        "Tokens written over calls of the target; plain decoding has 1.",
        lambda r: r.summary.tokens_per_target_call,
    ),
    Kpi(
        "ttft_s",
        "Time to first token",
        "s",
        "lower",
        "Reading the prompt, and the first round.",
        lambda r: r.summary.ttft_s,
    ),
    Kpi(
        "decode_s",
        "Decoding time",
        "s",
        "lower",
        "All of the engine's time but reading the prompt.",
        lambda r: r.summary.decode_s or None,
    ),
    Kpi(
        "num_tokens",
        "Tokens written",
        "tokens",
        "",
        "The output's tokens, an end token included.",
        lambda r: r.summary.num_tokens,
    ),
)


@dataclass(frozen=True, slots=True)
class KpiRow:
    """One figure of several runs; `ratios[i]` is `values[i]` over the reference's value."""

    kpi: Kpi
    values: tuple[float | None, ...]
    ratios: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...] = ()


def kpi_table(runs: Sequence[Run], reference: int = 0) -> tuple[KpiRow, ...]:
    """Return every figure of every run, each against run number `reference`."""
    rows = []
    for kpi in KPIS:
        values = tuple(kpi.value(run) for run in runs)
        base = values[reference]
        ratios = tuple(None if value is None or not base else value / base for value in values)
        rows.append(KpiRow(kpi, values, ratios, tuple(kpi.interval(run) for run in runs)))
    return tuple(rows)


def time_shares(summary: RunSummary) -> dict[str, float]:
    """Return where `wall_s` went, in seconds that add up to it; "verify" is without its link."""
    shares = {
        "prefill": summary.prefill_s,
        "draft": summary.draft_s,
        "verify": summary.verify_s - summary.link_s,
        "link": summary.link_s,
        "retry": summary.retry_s,
        "sample": summary.sample_s,
    }
    return shares | {"other": summary.wall_s - sum(shares.values())}


# -- settings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting that is not the same in all runs, with its value in each."""

    name: str
    values: tuple[object, ...]


def describe_settings(run: Run) -> dict[str, object]:
    """Return everything that was set or given for a run, by name, but not what came of it."""
    config = {} if run.config is None else to_json(run.config)
    known = {f"environment.{name}": value for name, value in run.environment.items()}
    return {
        **config,
        "prompt": run.prompt,
        "prompt_ids": run.prompt_ids,
        "target model": run.target.name,
        "target digest": run.target.digest,
        "draft model": run.draft.name,
        "draft digest": run.draft.digest,
        "backend in use": run.backend,
        "exactness": run.exactness,
        "link is emulated": run.link_is_emulated,
        **known,
    }


def setting_differences(runs: Sequence[Run]) -> tuple[SettingDifference, ...]:
    """Return the settings in which `runs` are not all alike; None where one has no such setting."""
    described = [describe_settings(run) for run in runs]
    names = dict.fromkeys(name for one in described for name in one)
    rows = ((name, tuple(one.get(name) for one in described)) for name in names)
    return tuple(
        SettingDifference(name, values)
        for name, values in rows
        if any(value != values[0] for value in values)
    )


def group_key(run: Run) -> str:
    """Return the same text for repetitions: all alike but for the seed, on machines alike.

    A run that read saved ones (`RecallDrafter`) is repeated by none: there is one more to read now.
    """
    settings = describe_settings(run)
    alike = {
        name: value
        for name, value in settings.items()
        if name != "seed"
        and not name.startswith("environment.")
        and (name, value) not in _ADDED_LATER
    }
    machine = [run.environment.get(name) for name in SAME_MACHINE]
    identity = dumps(
        {"settings": to_json(alike), "machine": machine, "changes": to_json(run.changes)}
        | ({"started_at": run.started_at} if _has_recalled(run) else {})
    )
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _has_recalled(run: Run) -> bool:
    drafters = {name for one in run.rounds for name in re.split("[+|]", one.drafter)}
    return RecallDrafter.name in drafters


def group_runs(runs: Sequence[Run]) -> tuple[tuple[Run, ...], ...]:
    """Put repetitions together, in the order in which each group first appears."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return tuple(map(tuple, groups.values()))


# -- texts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two texts part: the first position that differs, and what was common up to there.

    `position` counts tokens where both runs have token ids of one target, characters elsewhere;
    `rest` is what each run wrote from there on, empty where it had ended.
    """

    position: int
    common: str
    rest: tuple[str, str]


def first_divergence(one: Run, other: Run) -> Divergence | None:
    """Return where the outputs of two runs first differ, None where they are the same."""
    by_token = bool(one.rounds and other.rounds) and one.target == other.target
    left: Sequence[object] = one.token_ids if by_token else one.text
    right: Sequence[object] = other.token_ids if by_token else other.text
    if left == right:
        return None
    pairs = enumerate(zip(left, right, strict=False))
    ended = min(len(left), len(right))
    position = next((place for place, (a, b) in pairs if a != b), ended)
    pieces = [(run.pieces if by_token else run.text) for run in (one, other)]
    rest = ["".join(each[position:]) for each in pieces]
    return Divergence(position, "".join(pieces[0][:position]), (rest[0], rest[1]))
