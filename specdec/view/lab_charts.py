"""The charts of a sweep: heat maps, acceptance by position, and speed against waste.

Colours are worked out here, not by the chart, so that a report without scripts shows the same: blue
is faster than plain decoding, orange slower, grey as fast. Figures stand in white on all of them,
which is readable in a light and in a dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import altair as alt
import pandas as pd

from specdec.lab.findings import pareto_front
from specdec.lab.plan import Arm
from specdec.lab.results import Condition, Outcome
from specdec.view.charts import Data, Spec, bare_spec, empty_chart
from specdec.view.history_charts import COLORS

Axis = Literal["temperature", "round trip"]
Map = Mapping[Condition, Sequence[Outcome]]

SLOW, EVEN, FAST = (180, 83, 9), (100, 116, 139), (29, 78, 216)
FULL_OCTAVES = 1.0
"""Twice as fast, or half as fast, has the full colour."""
ROW_PX = 36
_BASE_PX = 90
_OUTLINE = "#facc15"
_NUM_STRIPES = 9


def heat_color(times_plain: float) -> str:
    """Return the colour of a speed-up, in hexadecimal."""
    share = min(1.0, abs(math.log2(max(times_plain, 1e-3))) / FULL_OCTAVES)
    end = FAST if times_plain >= 1 else SLOW
    mixed = (round(a + share * (b - a)) for a, b in zip(EVEN, end, strict=True))
    return "#" + "".join(f"{one:02x}" for one in mixed)


def interval_words(one: Outcome) -> str:
    """Return the interval of a speed-up, or that there are too few prompts for one."""
    low, high = one.speedup.low, one.speedup.high
    return "too few prompts" if low is None or high is None else f"{low:.2f} – {high:.2f}"


def how_known(one: Outcome) -> str:
    return "predicted" if one.is_predicted else "measured"


def row_name(arm: Arm, condition: Condition, axis: Axis) -> str:
    """Return how a row of a heat map is called."""
    at = (
        f"temperature {condition.temperature:g}"
        if axis == "temperature"
        else f"{condition.rtt_ms:g} ms"
    )
    return f"{arm.label} · {at}"


@cache
def heat_spec() -> Spec:
    base = empty_chart(*_HEAT_COLUMNS)
    x = alt.X("k:O").title("drafted tokens per round, K").axis(labelAngle=0, orient="top")
    y = alt.Y("row:N").title(None).sort(field="order", op="min")
    y = y.axis(labelLimit=190)
    tooltip = [
        alt.Tooltip("row:N", title="arm"),
        alt.Tooltip("k:O", title="K"),
        alt.Tooltip("times:Q", title="times plain", format=".2f"),
        alt.Tooltip("interval:N", title="95 %"),
        alt.Tooltip("tokens_per_s:Q", title="tokens per second", format=".1f"),
        alt.Tooltip("accepted:N", title="accepted"),
        alt.Tooltip("known:N", title="known how"),
        alt.Tooltip("prompts:Q", title="prompts"),
    ]
    fill = base.mark_rect(cornerRadius=3).encode(
        x=x, y=y, color=alt.Color("color:N").scale(None), tooltip=tooltip
    )
    hatched = (
        base.mark_rect(cornerRadius=3, color=_stripes(), tooltip=None)
        .encode(x=x, y=y)
        .transform_filter("datum.known == 'predicted'")
    )
    outlined = (
        base.mark_rect(cornerRadius=3, filled=False, stroke=_OUTLINE, strokeWidth=3)
        .encode(x=x, y=y)
        .transform_filter("datum.alike")
    )
    figures = base.mark_text(color="white", fontWeight="bold").encode(x=x, y=y, text="text:N")
    return bare_spec(fill + hatched + outlined + figures)


def _stripes() -> Any:
    """Return slanting stripes: a gradient whose every stop is hard."""
    line, gap = "#ffffff38", "#ffffff00"
    stops = [
        {"offset": (stripe + share) / _NUM_STRIPES, "color": color}
        for stripe in range(_NUM_STRIPES)
        for share, color in ((0.0, line), (0.35, line), (0.35, gap), (1.0, gap))
    ]
    ends = {"x1": 0, "y1": 0, "x2": 1, "y2": 1}
    return alt.Gradient.from_dict({"gradient": "linear", "stops": stops, **ends})


_HEAT_COLUMNS = (
    *("row", "order", "k", "times", "interval", "tokens_per_s", "accepted", "known", "prompts"),
    *("alike", "color", "text"),
)


def heat_data(outcomes: Map, axis: Axis) -> Data:
    """Return a row for each arm under each condition; the winner is that of its condition."""
    rows = []
    for place, (condition, of_condition) in enumerate(outcomes.items()):
        labels = list(dict.fromkeys(one.arm.label for one in sorted_by_arm(of_condition)))
        for one in of_condition:
            text = f"{'★ ' if one.is_best else ''}{one.speedup.mean:.2f}"
            rows.append(
                (
                    row_name(one.arm, condition, axis),
                    1000 * place + labels.index(one.arm.label),
                    one.arm.num_draft_tokens,
                    one.speedup.mean,
                    interval_words(one),
                    one.tokens_per_s,
                    "–" if one.acceptance is None else f"{100 * one.acceptance:.1f} %",
                    how_known(one),
                    one.num_prompts,
                    one.is_within_noise and one.speedup.low is not None,
                    heat_color(one.speedup.mean),
                    text,
                )
            )
    return pd.DataFrame(rows, columns=list(_HEAT_COLUMNS))


def sorted_by_arm(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes in an order that speeds do not change: plain first, then by name and K."""
    return sorted(
        outcomes, key=lambda one: (not one.arm.is_plain, one.arm.label, one.arm.num_draft_tokens)
    )


def heat_height_px(data: Data) -> int:
    return _BASE_PX + ROW_PX * max(1, data["row"].nunique())


@cache
def position_spec() -> Spec:
    base = empty_chart("kind", "color", "position", "rate", "end")
    x = alt.X("position:O").title("position in the draft").axis(labelAngle=0)
    y = alt.Y("rate:Q").title("accepted up to here").scale(domain=[0, 1]).axis(format="%")
    color = alt.Color("color:N").scale(None)
    line = base.mark_line(point=True, strokeWidth=2).encode(
        x=x,
        y=y,
        color=color,
        detail="kind:N",
        tooltip=["kind:N", "position:O", alt.Tooltip("rate:Q", format=".1%")],
    )
    names = base.mark_text(align="right", dx=-6, dy=-8, fontWeight="bold").encode(
        x=x, y=y, text="end:N", color=color
    )
    return bare_spec(line + names)


def position_data(rates: Mapping[str, Sequence[float]]) -> Data:
    """Return acceptance up to each position, a line for each class of prompts."""
    rows = []
    for index, (kind, of_kind) in enumerate(rates.items()):
        named_at = min(index, len(of_kind) - 1)  # at different places, lest names lie on each other
        for place, rate in enumerate(of_kind):
            end = kind if place == named_at else ""
            rows.append((kind, COLORS[index % len(COLORS)], place + 1, rate, end))
    return pd.DataFrame(rows, columns=["kind", "color", "position", "rate", "end"])


@cache
def pareto_spec() -> Spec:
    base = empty_chart("arm", "color", "waste", "times", "text", "known", "front")
    x = alt.X("waste:Q").title("drafted tokens wasted per token written").scale(zero=True)
    y = alt.Y("times:Q").title("times plain").scale(zero=False)
    color = alt.Color("color:N").scale(None)
    front = (
        base.mark_line(interpolate="step-after", color="#808495", strokeDash=[5, 3])
        .encode(x=x, y=y)
        .transform_filter("datum.front")
    )
    points = base.mark_point(size=90, strokeWidth=2).encode(
        x=x,
        y=y,
        color=color,
        fill=alt.condition(
            "datum.known == 'measured'",
            alt.Fill("color:N").scale(None).legend(None),
            alt.value("transparent"),
        ),
        tooltip=[
            "arm:N",
            alt.Tooltip("times:Q", title="times plain", format=".2f"),
            alt.Tooltip("waste:Q", title="wasted per token", format=".2f"),
            "known:N",
        ],
    )
    names = base.mark_text(dy=-11, fontWeight="bold").encode(x=x, y=y, text="text:N", color=color)
    return bare_spec(front + points + names)


def pareto_data(outcomes: Sequence[Outcome]) -> Data:
    """Return a point for each arm; K stands beside those on the front.

    The one of each draft that wastes most, which is seldom near others, bears the draft's name.
    """
    front = {one.arm for one in pareto_front(outcomes)}
    known = sorted((one for one in outcomes if one.wasted is not None), key=_waste)
    named = {one.arm.label: one.arm for one in known}
    colors = arm_colors(one.arm for one in sorted_by_arm(outcomes))
    rows = [
        (
            f"{one.arm.label}, K = {one.arm.num_draft_tokens}",
            colors[one.arm.label],
            one.wasted,
            one.speedup.mean,
            _point_name(one.arm, named[one.arm.label], front),
            how_known(one),
            one.arm in front,
        )
        for one in known
    ]
    columns = ["arm", "color", "waste", "times", "text", "known", "front"]
    return pd.DataFrame(rows, columns=columns)


def _waste(one: Outcome) -> float:
    return one.wasted or 0.0


def _point_name(arm: Arm, named: Arm, front: Collection[Arm]) -> str:
    parts = [arm.label] if arm == named else []
    parts += [f"K {arm.num_draft_tokens}"] if arm in front and not arm.is_plain else []
    return ", ".join(parts)


def arm_colors(arms: Iterable[Arm]) -> dict[str, str]:
    """Return a colour for each way of drafting, by its label."""
    labels = dict.fromkeys(arm.label for arm in arms)
    return {label: COLORS[index % len(COLORS)] for index, label in enumerate(labels)}
