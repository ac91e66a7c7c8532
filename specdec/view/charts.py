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
from specdec.view.run_view import Change, Point
from specdec.view.words import percent

Spec = dict[str, Any]
Data = pd.DataFrame

HEIGHT_PX, GAUGE_HEIGHT_PX = 210, 100
LATENCY_ROUNDS = 10
MAX_POINTS = 120

RED, YELLOW, GREEN = "#ef4444", "#eab308", "#22c55e"
MEASURED_COLOR, PREDICTED_COLOR = "#22c55e", "#94a3b8"
PARTS = {"draft": DRAFT_COLOR, "verify": VERIFY_COLOR, "link": LINK_COLOR, "other": OTHER_COLOR}


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
    radius = GAUGE_HEIGHT_PX // 2 - 1
    arc = base.mark_arc(innerRadius=radius - 11, outerRadius=radius).encode(
        theta=alt.Theta("value:Q").stack(True).scale(domain=[0, 1]),
        color=alt.Color("color:N").scale(None),
        order=alt.Order("slot:Q"),
    )
    number = base.mark_text(size=20, fontWeight="bold").encode(
        text="text:N", color=alt.Color("color:N").scale(None)
    )
    whole = arc + number.transform_filter("datum.slot == 0")
    # Streamlit leaves 20 px below a chart that says nothing of it, and the ring would be cut.
    return bare_spec(whole.properties(padding=dict.fromkeys(("left", "right", "top", "bottom"), 0)))


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
    base = empty_chart("against", "speedup", "label_at", "end", "text")
    rows = alt.Y("against:N").sort(None).title(None).axis(labelLimit=150, labelPadding=8)
    bars = base.mark_bar(height=26, cornerRadiusEnd=3).encode(
        y=rows,
        x=alt.X("speedup:Q").title("times as fast").scale(nice=False),
        color=alt.condition("datum.speedup >= 1", alt.value(GREEN), alt.value(RED)),
    )
    ends = base.mark_point(opacity=0).encode(y=rows, x="end:Q")
    texts = base.mark_text(align="left", dx=5, fontWeight="bold", color="#808495").encode(
        y=rows, x="label_at:Q", text="text:N"
    )
    even = base.mark_rule(strokeDash=[4, 4], color="#808495").encode(x=alt.datum(1))
    return bare_spec(bars + ends + texts + even)


def speedup_data(speedup: Speedup | None, has_link: bool) -> Data:
    """Return one row per baseline, without a bar where none was measured yet."""
    names = ["one call per token, same link", "target alone, no link"]
    times = [speedup.over_link.mean, speedup.alone.mean] if speedup else [0.0, 0.0]
    if not has_link:
        names = ["target decoding plainly"]
    end = round_up(1.3 * max([1.5, *times]), (1, 2, 3, 4, 6, 8, 10))
    # A figure stands at the end of its bar, or behind the dashed line at 1 if that is further.
    return pd.DataFrame(
        [
            (name, one, max(1.0, one), end, f"{one:.2f} ×" if speedup else "–")
            for name, one in zip(names, times, strict=False)
        ],
        columns=["against", "speedup", "label_at", "end", "text"],
    )


_SPEED_COLUMNS = [
    *("round", "tokens_per_s", "so_far", "end", "changed", "change", "opacity"),
    *("baseline", "above", "below"),
]


@cache
def speed_spec() -> Spec:
    base = empty_chart(*_SPEED_COLUMNS)
    x = alt.X("round:Q").title(None).axis(tickMinStep=1, grid=False)
    y = alt.Y("tokens_per_s:Q").title(None).scale(nice=False, zero=True).axis(tickCount=3)
    line = base.mark_line(strokeWidth=2.5, color=GREEN).encode(x=x, y=y)
    so_far = base.mark_line(strokeWidth=1.5, color=GREEN, opacity=0.4).encode(x=x, y="so_far:Q")
    ends = base.mark_point(opacity=0).encode(x=x, y="end:Q")
    shown = alt.Opacity("opacity:Q").scale(None)
    rules = base.mark_rule(strokeDash=[6, 4], strokeWidth=1.5, color="#808495").encode(
        y="baseline:Q", opacity=shown
    )
    # Above the upper baseline and below the lower one: the line is mostly between them.
    named = [
        base.mark_text(align="right", dy=dy, dx=-4, color="#808495").encode(
            y="baseline:Q", x=alt.value("width"), text=f"{name}:N"
        )
        for name, dy in (("above", -7), ("below", 9))
    ]
    changes = base.mark_rule(strokeDash=[2, 2], color=DRAFT_COLOR).encode(
        x="changed:Q", opacity=shown
    )
    said = base.mark_text(align="left", dx=3, dy=6, color=DRAFT_COLOR).encode(
        x="changed:Q", y=alt.value(0), text="change:N", opacity=shown
    )
    return bare_spec(alt.layer(so_far, line, ends, rules, *named, changes, said))


def speed_data(
    points: Sequence[Point],
    baseline: Baseline | None,
    has_link: bool,
    changes: Sequence[Change] = (),
) -> Data:
    """Return tokens per second, rolling and of the run so far, thinned out, with the baselines."""
    rows: list[dict[str, Any]] = [
        {
            "round": point.round + 1,
            "tokens_per_s": point.stats.tokens_per_s,
            "so_far": point.tokens_per_s,
        }
        for point in thin_out(points)
    ] or [{"round": 1, "tokens_per_s": 0.0, "so_far": 0.0}]
    levels = [row[kind] or 0.0 for row in rows for kind in ("tokens_per_s", "so_far")]
    if baseline:
        above, below = ("", "one call per token, same link") if has_link else ("plain decoding", "")
        line = {"baseline": baseline.tokens_per_s, "opacity": 1}
        rows.append({**line, "above": above, "below": below})
        levels.append(baseline.tokens_per_s)
        if has_link:
            alone = baseline.tokens_per_s_without_link
            line = {"baseline": alone, "opacity": 1}
            rows.append({**line, "above": "target alone, no link", "below": ""})
            levels.append(alone)
    rows += [{"changed": one.round + 1, "change": one.words, "opacity": 1} for one in changes]
    # Unseen, so that axes have an extent before there is anything.
    unseen = {"changed": 1, "change": "", "baseline": 0.0, "above": "", "below": "", "opacity": 0}
    rows.append(unseen)
    last = points[-1].round + 1 if points else 1
    rows.append({"round": max(10, round_up(last)), "end": round_up(1.1 * max([1.0, *levels]))})
    return pd.DataFrame(rows, columns=_SPEED_COLUMNS)


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most about `limit` points, evenly spaced, the last one always among them."""
    stride = max(1, math.ceil(len(points) / limit))
    return list(points[len(points) - 1 :: -stride][::-1]) if points else []


@cache
def latency_spec() -> Spec:
    base = empty_chart("slot", "part", "ms", "total", "end", "round")
    bars = base.mark_bar().encode(
        x=alt.X("round:O").title(None).axis(labelAngle=0, ticks=False),
        y=alt.Y("ms:Q").title(None).stack("zero").scale(nice=False).axis(tickCount=3),
        color=alt.Color("part:N")
        .scale(domain=list(PARTS), range=list(PARTS.values()))
        .legend(orient="top", title=None, symbolSize=60, offset=4, padding=0),
        order=alt.Order("slot:Q"),
        tooltip=[
            alt.Tooltip("round:O"),
            alt.Tooltip("part:N"),
            alt.Tooltip("ms:Q", format=".1f"),
        ],
    )
    ends = base.mark_point(opacity=0).encode(y="end:Q")
    totals = base.mark_text(dy=-6, fontSize=9, color="#808495").encode(
        x="round:O",
        y="total:Q",
        text=alt.condition("datum.total > 0", alt.Text("total:Q", format=".0f"), alt.value("")),
    )
    return bare_spec(bars + ends + totals.transform_filter("datum.slot == 0"))


def latency_data(rounds: Sequence[RoundResult]) -> Data:
    """Return draft, verify, link and other time of the last ten rounds, in milliseconds."""
    rows: list[tuple[int, int, str, float, float]] = []
    last = rounds[-LATENCY_ROUNDS:]
    for result in last:
        verify_s = result.verify_s - result.link_s
        other_s = max(0.0, result.wall_s - result.draft_s - result.verify_s)
        seconds = (result.draft_s, verify_s, result.link_s, other_s)
        for slot, (part, value_s) in enumerate(zip(PARTS, seconds, strict=True)):
            rows.append((result.round + 1, slot, part, 1e3 * value_s, 1e3 * result.wall_s))
    if not rows:
        rows.append((1, 0, "draft", 0.0, 0.0))
    data = pd.DataFrame(rows, columns=["round", "slot", "part", "ms", "total"])
    return data.assign(end=round_up(1.15e3 * max((r.wall_s for r in last), default=1e-3)))


@cache
def position_spec() -> Spec:
    base = empty_chart("position", "kind", "rate")
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
    named = (
        base.mark_text(dy=-7, color="#808495", fontSize=10)
        .encode(x=x, y=y, text=alt.Text("rate:Q", format=".0%"))
        .transform_filter("datum.kind == 'measured'")
    )
    return bare_spec(bars + line + named)


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
    x = alt.X("length:O").title("accepted tokens in a round").axis(labelAngle=0)
    bars = base.mark_bar(color=MEASURED_COLOR).encode(
        x=x,
        y=alt.Y("rounds:Q").title("rounds").axis(tickMinStep=1),
        tooltip=["length:O", "rounds:Q"],
    )
    named = base.mark_text(dy=-7, color="#808495", fontSize=10).encode(
        x=x, y="rounds:Q", text="rounds:Q"
    )
    return bare_spec(bars + named)


def histogram_data(summary: RunSummary) -> Data:
    """Return how many drafted rounds accepted 0, 1, 2, … tokens."""
    counts = summary.acceptance_histogram or (0,)
    return pd.DataFrame({"length": range(len(counts)), "rounds": counts})
