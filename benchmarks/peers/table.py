"""What a race came to: one row per contestant, as JSON, Markdown and a chart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from benchmarks.peers.race import Heat, Result

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """One contestant at one temperature; medians over heats, speeds with their 95 % interval.

    `against_plain` is the median, over heats of one turn, of its speed over that of
    transformers' plain decoding: what else ran then slowed both. `same_tokens` holds greedy texts
    against the reference's, `logprob` is the target's mean ln p of a token drawn above 0.
    """

    contestant: str
    temperature: float
    tokens_per_s: float
    low: float
    high: float
    against_plain: float | None
    tokens_per_call: float | None
    first_token_s: float
    peak_mb: float
    cost_ratio: float | None
    same_tokens: float | None
    logprob: float | None


def rows(result: Result, reference: str, plain: str) -> list[Row]:
    """Return the rows, fastest first at each temperature.

    Args:
        result: the race.
        reference: whose tokens at temperature 0 the others' are held against.
        plain: whose speed is 1.
    """
    told = {(heat.contestant, heat.temperature) for heat in result.heats}
    made = [_row(result, name, temperature, reference, plain) for name, temperature in told]
    return sorted(made, key=lambda row: (row.temperature, -row.tokens_per_s))


def _row(result: Result, name: str, temperature: float, reference: str, plain: str) -> Row:
    heats = _of(result.heats, name, temperature)
    speeds = [_speed(heat) for heat in heats]
    low, high = _interval(speeds)
    others = {(h.prompt, h.repeat): h for h in _of(result.heats, plain, temperature)}
    pairs = [
        _speed(heat) / _speed(others[heat.prompt, heat.repeat])
        for heat in heats
        if (heat.prompt, heat.repeat) in others
    ]
    calls = [heat.calls for heat in heats if heat.calls]
    written = sum(len(heat.token_ids) for heat in heats if heat.calls)
    ratios = result.ratios.get(name)
    return Row(
        contestant=name,
        temperature=temperature,
        tokens_per_s=statistics.median(speeds),
        low=low,
        high=high,
        against_plain=statistics.median(pairs) if pairs else None,
        tokens_per_call=written / sum(calls) if calls else None,
        first_token_s=statistics.median(heat.first_token_s for heat in heats),
        peak_mb=max(heat.peak_mb for heat in heats),
        cost_ratio=statistics.median(ratios) if ratios else None,
        same_tokens=_agreement(result.heats, name, reference) if temperature == 0 else None,
        logprob=statistics.mean(told) if (told := _logprobs(heats)) else None,
    )


def _of(heats: Sequence[Heat], name: str, temperature: float) -> list[Heat]:
    return [h for h in heats if h.contestant == name and h.temperature == temperature]


def _logprobs(heats: Sequence[Heat]) -> list[float]:
    return [heat.logprob for heat in heats if heat.logprob is not None]


def _speed(heat: Heat) -> float:
    return heat.decoded / heat.decode_s


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median, by drawing the values with replacement."""
    drawn = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def _agreement(heats: Sequence[Heat], name: str, reference: str) -> float | None:
    """Return the share of tokens before the first that differs from the reference's."""
    expected = {h.prompt: h.token_ids for h in _of(heats, reference, 0.0)}
    same = total = 0
    for heat in _of(heats, name, 0.0):
        if heat.prompt not in expected:
            continue
        pairs = list(zip(heat.token_ids, expected[heat.prompt], strict=False))
        same += next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
        total += len(pairs)
    return same / total if total else None


def markdown(made: Sequence[Row], result: Result) -> str:
    """Return the tables, one per temperature, and who is missing."""
    lines = []
    for temperature in dict.fromkeys(row.temperature for row in made):
        is_greedy = temperature == 0
        lines += [
            f"**Temperature {temperature:g}**" + (" (greedy)" if is_greedy else ""),
            "",
            "| engine, way | tokens/s (95 %) | × HF plain | tokens per call | forward(K+1) ÷ "
            f"forward(1) | first token | peak memory | {'same tokens' if is_greedy else 'ln p'} |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in made:
            if row.temperature == temperature:
                cells = [
                    row.contestant,
                    f"{row.tokens_per_s:.1f} ({row.low:.1f}–{row.high:.1f})",
                    _number(row.against_plain, ".2f"),
                    _number(row.tokens_per_call, ".2f"),
                    _number(row.cost_ratio, ".2f"),
                    f"{1e3 * row.first_token_s:,.0f} ms",
                    f"{row.peak_mb:,.0f} MB",
                    _number(row.same_tokens, ".0%") if is_greedy else _number(row.logprob, ".2f"),
                ]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += [f"- Not here: {name}: {reason}" for name, reason in result.refused.items()]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def chart(made: Sequence[Row]) -> alt.LayerChart | alt.FacetChart:
    """Return bars of the speeds with their intervals, one panel per temperature."""
    data = pd.DataFrame([asdict(row) for row in made])
    data["ours"] = data["contestant"].str.startswith("SpeculatoViz")
    data["panel"] = data["temperature"].map(lambda t: f"temperature {t:g}")
    base = alt.Chart().encode(y=alt.Y("contestant:N").title(None).axis(labelLimit=300))
    bars = base.mark_bar().encode(
        x=alt.X("tokens_per_s:Q").title("tokens per second (median, 95 % interval)"),
        color=alt.Color("ours:N")
        .scale(domain=[True, False], range=["#3b82f6", "#94a3b8"])
        .legend(None),
    )
    rules = base.mark_rule(color="#0f172a").encode(x="low:Q", x2="high:Q")
    return (
        alt.layer(bars, rules, data=data)
        .properties(width=420)
        .facet(row=alt.Row("panel:N").title(None))
        .resolve_scale(y="independent")
        .configure(background="white")
    )


def document(made: Sequence[Row], result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """Return all of it for a JSON file."""
    return facts | {
        "versions": result.versions,
        "rows": [asdict(row) for row in made],
        "refused": result.refused,
        "heats": [asdict(heat) for heat in result.heats],
    }
