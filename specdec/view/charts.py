"""The dashboard's charts: Vega-Lite specifications built once, and the small data each one takes.

Building an Altair chart costs ten times what sending its data does, so each specification is made
once, without data, and only data travels on an update. Axes are kept still by an invisible row
that carries their end, which moves in large steps only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from specdec.metrics import Baseline
from specdec.records import RoundResult, RunSummary
from specdec.runs.speedup import Speedup
from specdec.view.palette import DRAFT_COLOR, LINK_COLOR, OTHER_COLOR, VERIFY_COLOR
from specdec.view.run_view import Point
from specdec.view.words import percent

Spec = dict[str, Any]
Data = pd.DataFrame

HEIGHT_PX = 210
LATENCY_ROUNDS = 10
MAX_POINTS = 120

RED, YELLOW, GREEN = "#ef4444", "#eab308", "#22c55e"
MEASURED_COLOR, PREDICTED_COLOR = "#22c55e", "#94a3b8"
_PARTS = {"draft": DRAFT_COLOR, "verify": VERIFY_COLOR, "link": LINK_COLOR, "other": OTHER_COLOR}


def gauge_color(rate: float) -> str:
    """Return red below 50 %, yellow to 75 %, green above."""
    return RED if rate < 0.5 else YELLOW if rate <= 0.75 else GREEN


def round_up(value: float, steps: Sequence[float] = (1, 2, 5, 10)) -> float:
    """Return the next of 1, 2, 5 · 10^n at or above `value`: an axis end that seldom moves."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in steps if step * scale >= value * (1 - 1e-9))


def bare_spec(chart: alt.TopLevelMixin) -> Spec:
    """Return a chart as a dictionary without its data."""
    spec: Spec = chart.to_dict()
    spec.pop("data", None)
    spec.pop("datasets", None)
    return spec


def empty_chart(*columns: str) -> alt.Chart:
    return alt.Chart(pd.DataFrame(columns=list(columns)))


@cache
def gauge_spec() -> Spec:
    base = empty_chart("slot", "value", "color", "text")
    arc = base.mark_arc(innerRadius=32, outerRadius=45).encode(
        theta=alt.Theta("value:Q").stack(True).scale(domain=[0, 1]),
        color=alt.Color("color:N").scale(None),
        order=alt.Order("slot:Q"),
    )
    number = base.mark_text(size=20, fontWeight="bold").encode(
        text="text:N", color=alt.Color("color:N").scale(None)
    )
    return bare_spec(arc + number.transform_filter("datum.slot == 0"))


def gauge_data(rate: float | None) -> Data:
    """Return the two arcs of the gauge and what is written in its middle."""
    share = 0.0 if rate is None else rate
    color = PREDICTED_COLOR if rate is None else gauge_color(share)
    text = percent(rate)
    return pd.DataFrame(
        {
            "slot": [0, 1],
            "value": [share, 1 - share],
            "color": [color, "#94a3b840"],
            "text": [text, ""],
        }
    )


@cache
def speedup_spec() -> Spec:
    base = empty_chart("against", "speedup", "end", "text")
    rows = alt.Y("against:N").sort(None).title(None).axis(labelLimit=150, labelPadding=8)
    bars = base.mark_bar(height=26, cornerRadiusEnd=3).encode(
        y=rows,
        x=alt.X("speedup:Q").title("times as fast").scale(nice=False),
        color=alt.condition("datum.speedup >= 1", alt.value(GREEN), alt.value(RED)),
    )
    ends = base.mark_point(opacity=0).encode(y=rows, x="end:Q")
    # At the end of the axis: beside its bar, a figure near 1 would lie on the dashed line.
    texts = base.mark_text(align="right", fontWeight="bold", color="#808495").encode(
        y=rows, x="end:Q", text="text:N"
    )
    even = base.mark_rule(strokeDash=[4, 4], color="#808495").encode(x=alt.datum(1))
    return bare_spec(bars + ends + texts + even)


def speedup_data(speedup: Speedup | None, has_link: bool) -> Data:
    """Return one row per measured baseline: over the same link, and without one."""
    rows: list[tuple[str, float]] = []
    if speedup:
        over_link, alone = speedup.over_link.mean, speedup.alone.mean
        if has_link:
            rows.append(("one call per token, same link", over_link))
            rows.append(("target alone, no link", alone))
        else:
            rows.append(("target decoding plainly", over_link))
    end = round_up(1.2 * max([1.5, *(speedup for _, speedup in rows)]), (1, 2, 3, 4, 6, 8, 10))
    return pd.DataFrame(
        [(against, speedup, end, f"{speedup:.2f} ×") for against, speedup in rows],
        columns=["against", "speedup", "end", "text"],
    )


_SPEED_COLUMNS = [
    *("round", "tokens_per_s", "end", "changed", "opacity"),
    *("baseline", "above", "below"),
]


@cache
def speed_spec() -> Spec:
    base = empty_chart(*_SPEED_COLUMNS)
    x = alt.X("round:Q").title(None).axis(tickMinStep=1, grid=False)
    y = alt.Y("tokens_per_s:Q").title(None).scale(nice=False, zero=True).axis(tickCount=3)
    line = base.mark_line(strokeWidth=2.5, color=GREEN).encode(x=x, y=y)
    ends = base.mark_point(opacity=0).encode(x=x, y="end:Q")
    rules = base.mark_rule(strokeDash=[6, 4], strokeWidth=1.5, color="#808495").encode(
        y="baseline:Q"
    )
    # Above the upper baseline and below the lower one: the line is mostly between them.
    named = [
        base.mark_text(align="right", dy=dy, dx=-4, color="#808495").encode(
            y="baseline:Q", x=alt.value("width"), text=f"{name}:N"
        )
        for name, dy in (("above", -7), ("below", 9))
    ]
    changes = base.mark_rule(strokeDash=[2, 2], color=DRAFT_COLOR).encode(
        x="changed:Q", opacity=alt.Opacity("opacity:Q").scale(None)
    )
    return bare_spec(alt.layer(line, ends, rules, *named, changes))


def speed_data(
    points: Sequence[Point], baseline: Baseline | None, has_link: bool, changed: Sequence[int] = ()
) -> Data:
    """Return the rolling tokens per second, thinned out, with the measured baselines.

    `changed` holds the rounds from which on a setting was another one.
    """
    rows: list[dict[str, Any]] = [
        {"round": point.round + 1, "tokens_per_s": point.stats.tokens_per_s}
        for point in thin_out(points)
    ]
    levels = [row["tokens_per_s"] or 0.0 for row in rows]
    if baseline:
        above, below = ("", "one call per token, same link") if has_link else ("plain decoding", "")
        rows.append({"baseline": baseline.tokens_per_s, "above": above, "below": below})
        levels.append(baseline.tokens_per_s)
        if has_link:
            alone = baseline.tokens_per_s_without_link
            rows.append({"baseline": alone, "above": "target alone, no link", "below": ""})
            levels.append(alone)
    rows += [{"changed": number + 1, "opacity": 1} for number in changed]
    rows.append({"changed": 1, "opacity": 0})  # Vega warns of a field that is never set
    last = points[-1].round + 1 if points else 1
    rows.append({"round": max(10, round_up(last)), "end": round_up(1.1 * max([1.0, *levels]))})
    return pd.DataFrame(rows, columns=_SPEED_COLUMNS)


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most about `limit` points, evenly spaced, the last one always among them."""
    stride = max(1, math.ceil(len(points) / limit))
    return list(points[len(points) - 1 :: -stride][::-1]) if points else []


@cache
def latency_spec() -> Spec:
    base = empty_chart("slot", "part", "ms", "end", "round")
    bars = base.mark_bar().encode(
        x=alt.X("round:O").title(None).axis(labelAngle=0, ticks=False),
        y=alt.Y("ms:Q").title(None).stack("zero").scale(nice=False).axis(tickCount=3),
        color=alt.Color("part:N")
        .scale(domain=list(_PARTS), range=list(_PARTS.values()))
        .legend(orient="top", title=None, symbolSize=60, offset=4, padding=0),
        order=alt.Order("slot:Q"),
        tooltip=[
            alt.Tooltip("round:O"),
            alt.Tooltip("part:N"),
            alt.Tooltip("ms:Q", format=".1f"),
        ],
    )
    ends = base.mark_point(opacity=0).encode(y="end:Q")
    return bare_spec(bars + ends)


def latency_data(rounds: Sequence[RoundResult]) -> Data:
    """Return draft, verify, link and other time of the last ten rounds, in milliseconds."""
    rows = []
    last = rounds[-LATENCY_ROUNDS:]
    for result in last:
        verify_s = result.verify_s - result.link_s
        other_s = max(0.0, result.wall_s - result.draft_s - result.verify_s)
        seconds = (result.draft_s, verify_s, result.link_s, other_s)
        for slot, (part, value_s) in enumerate(zip(_PARTS, seconds, strict=True)):
            rows.append((result.round + 1, slot, part, 1e3 * value_s))
    data = pd.DataFrame(rows, columns=["round", "slot", "part", "ms"])
    return data.assign(end=round_up(1e3 * max((r.wall_s for r in last), default=1e-3)))


@cache
def position_spec() -> Spec:
    base = empty_chart("position", "kind", "rate", "label")
    x = alt.X("position:O").title("position in the draft").axis(labelAngle=0)
    y = alt.Y("rate:Q").title("accepted up to here").scale(domain=[0, 1]).axis(format="%")
    kinds = (
        alt.Color("kind:N")
        .scale(domain=["measured", "predicted"], range=[MEASURED_COLOR, PREDICTED_COLOR])
        .legend(orient="top", title=None, symbolSize=60)
    )
    tooltip = ["position:O", "kind:N", alt.Tooltip("rate:Q", format=".1%")]
    bars = (
        base.mark_bar()
        .encode(x=x, y=y, color=kinds, tooltip=tooltip)
        .transform_filter("datum.kind == 'measured'")
    )
    line = (
        base.mark_line(point=True, strokeDash=[5, 3])
        .encode(x=x, y=y, color=kinds, tooltip=tooltip)
        .transform_filter("datum.kind == 'predicted'")
    )
    return bare_spec(bars + line)


def position_data(summary: RunSummary, alpha: float | None) -> Data:
    """Return how often a draft was accepted up to each position, and what α^i predicts.

    The closed form takes every test to be alike (Leviathan et al. 2023), so the gap to the bars
    is how far that is from the truth.
    """
    rows: list[tuple[int, str, float]] = []
    for index, rate in enumerate(summary.per_position_acceptance):
        rows.append((index + 1, "measured", rate))
        if alpha is not None:
            rows.append((index + 1, "predicted", alpha ** (index + 1)))
    return pd.DataFrame(rows, columns=["position", "kind", "rate"])


@cache
def histogram_spec() -> Spec:
    base = empty_chart("length", "rounds")
    bars = base.mark_bar(color=MEASURED_COLOR).encode(
        x=alt.X("length:O").title("accepted tokens in a round").axis(labelAngle=0),
        y=alt.Y("rounds:Q").title("rounds").axis(tickMinStep=1),
        tooltip=["length:O", "rounds:Q"],
    )
    return bare_spec(bars)


def histogram_data(summary: RunSummary) -> Data:
    """Return how many drafted rounds accepted 0, 1, 2, … tokens."""
    counts = summary.acceptance_histogram or (0,)
    return pd.DataFrame({"length": range(len(counts)), "rounds": counts})
