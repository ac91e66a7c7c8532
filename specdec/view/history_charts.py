"""The charts of a comparison: a line, a bar or a colour for each run, as in `charts`.

Colours travel with the data, so a run has the same one in every chart, also where another run has
nothing to show; each line ends in its run's number, for eyes that see no colours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import altair as alt
import pandas as pd

from specdec.metrics import RollingWindow, WindowStats
from specdec.runs.compare import time_shares
from specdec.runs.run import Run
from specdec.saved.rows import StoredRun
from specdec.view.charts import Data, Spec, bare_spec, empty_chart, thin_out
from specdec.view.palette import DRAFT_COLOR, LINK_COLOR, OTHER_COLOR, VERIFY_COLOR
from specdec.view.run_view import Point

COLORS = (
    "#3b82f6",
    "#f59e0b",
    "#10b981",
    "#ef4444",
    "#8b5cf6",
    "#06b6d4",
    "#ec4899",
    "#84cc16",
    "#f97316",
    "#6366f1",
    "#14b8a6",
    "#a16207",
)
_PARTS = {
    "prefill": "#64748b",
    "draft": DRAFT_COLOR,
    "verify": VERIFY_COLOR,
    "link": LINK_COLOR,
    "retry": "#ef4444",
    "sample": "#22c55e",
    "other": OTHER_COLOR,
}


def _colored(runs: Mapping[str, Run]) -> list[tuple[str, str, Run]]:
    return [(name, COLORS[i % len(COLORS)], run) for i, (name, run) in enumerate(runs.items())]


def _own_color() -> alt.Color:
    return alt.Color("color:N").scale(None)


def points(runs: Mapping[str, Run]) -> dict[str, list[Point]]:
    """Return the rolling window after each round of each run, thinned out."""
    return {name: thin_out(_window(run)) for name, run in runs.items()}


def _window(run: Run) -> Sequence[Point]:
    window = RollingWindow()
    return [Point(result.round, window.add(result)) for result in run.rounds]


@cache
def rolling_spec(title: str, *, is_share: bool) -> Spec:
    base = empty_chart("run", "color", "round", "value", "end")
    x = alt.X("round:Q").title("round").axis(tickMinStep=1, grid=False)
    y = alt.Y("value:Q").title(title).scale(zero=True)
    if is_share:
        y = y.scale(domain=[0, 1]).axis(format="%")
    line = base.mark_line(strokeWidth=2).encode(
        x=x,
        y=y,
        color=_own_color(),
        detail="run:N",
        tooltip=["run:N", "round:Q", alt.Tooltip("value:Q", format=".3g")],
    )
    names = base.mark_text(align="left", dx=4, fontWeight="bold").encode(
        x=x, y=y, text="end:N", color=_own_color()
    )
    return bare_spec(line + names)


def rolling_data(
    runs: Mapping[str, Run],
    points: Mapping[str, Sequence[Point]],
    value: Callable[[WindowStats], float | None],
) -> Data:
    """Return one figure of the rolling window by run and round; `end` names the last point."""
    rows = []
    for name, color, _ in _colored(runs):
        known = [(one.round + 1, value(one.stats)) for one in points[name]]
        known = [(number, one) for number, one in known if one is not None]
        for index, (number, one) in enumerate(known):
            end = name if index == len(known) - 1 else ""
            rows.append((name, color, number, one, end))
    return pd.DataFrame(rows, columns=["run", "color", "round", "value", "end"])


@cache
def scatter_spec() -> Spec:
    base = empty_chart(*_SCATTER_COLUMNS)
    # From nothing, lest the noise of two runs alike fill the chart.
    x = alt.X("acceptance:Q").title("accepted of what was drafted").scale(domain=[0, 1])
    y = alt.Y("speed:Q").title("tokens per second").scale(zero=True)
    spots = base.mark_circle(size=110, opacity=1).encode(
        x=x.axis(format="%", grid=False),
        y=y,
        color=_own_color(),
        tooltip=[
            "run:N",
            alt.Tooltip("draft:N", title="draft"),
            alt.Tooltip("k:Q", title="K"),
            alt.Tooltip("temperature:Q", format="g"),
            alt.Tooltip("rtt_ms:Q", title="emulated link, ms", format="g"),
            alt.Tooltip("speed:Q", title="tokens per second", format=".1f"),
            alt.Tooltip("acceptance:Q", title="accepted", format=".1%"),
            alt.Tooltip("speedup:Q", title="times plain", format=".2f"),
        ],
    )
    names = base.mark_text(align="left", dx=9, fontWeight="bold").encode(
        x=x, y=y, text="run:N", color=_own_color()
    )
    return bare_spec(spots + names)


_SCATTER_COLUMNS = (
    "run",
    "color",
    "acceptance",
    "speed",
    "draft",
    "k",
    "temperature",
    "rtt_ms",
    "speedup",
)


def scatter_data(lines: Mapping[str, StoredRun], num_colored: int) -> Data:
    """Return speed and acceptance of each run that drafted; those past the first ones are grey."""
    rows = []
    for index, (name, line) in enumerate(lines.items()):
        if line.tokens_per_s is None or line.draft_acceptance_rate is None:
            continue
        color = COLORS[index % len(COLORS)] if index < num_colored else OTHER_COLOR
        facts = (line.draft, line.num_draft_tokens, line.temperature, line.rtt_ms, line.speedup)
        rows.append((name, color, line.draft_acceptance_rate, line.tokens_per_s, *facts))
    return pd.DataFrame(rows, columns=list(_SCATTER_COLUMNS))


@cache
def position_spec() -> Spec:
    base = empty_chart("run", "color", "position", "rate", "end")
    x = alt.X("position:O").title("position in the draft").axis(labelAngle=0)
    y = alt.Y("rate:Q").title("accepted up to here").scale(domain=[0, 1]).axis(format="%")
    line = base.mark_line(point=True, strokeWidth=2).encode(
        x=x,
        y=y,
        color=_own_color(),
        detail="run:N",
        tooltip=["run:N", "position:O", alt.Tooltip("rate:Q", format=".1%")],
    )
    names = base.mark_text(align="left", dx=6, fontWeight="bold").encode(
        x=x, y=y, text="end:N", color=_own_color()
    )
    return bare_spec(line + names)


def position_data(runs: Mapping[str, Run]) -> Data:
    """Return how often a draft was accepted up to each position, by run."""
    rows = []
    for name, color, run in _colored(runs):
        rates = run.summary.per_position_acceptance
        for index, rate in enumerate(rates):
            end = name if index == len(rates) - 1 else ""
            rows.append((name, color, index + 1, rate, end))
    return pd.DataFrame(rows, columns=["run", "color", "position", "rate", "end"])


@cache
def histogram_spec() -> Spec:
    base = empty_chart("run", "color", "order", "length", "share", "rounds")
    bars = base.mark_bar().encode(
        x=alt.X("length:O").title("accepted tokens in a round").axis(labelAngle=0),
        xOffset=alt.XOffset("order:O"),
        y=alt.Y("share:Q").title("share of rounds").axis(format="%"),
        color=_own_color(),
        tooltip=["run:N", "length:O", "rounds:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    return bare_spec(bars)


def histogram_data(runs: Mapping[str, Run]) -> Data:
    """Return which share of the drafted rounds accepted 0, 1, 2, … tokens, by run."""
    rows = []
    for order, (name, color, run) in enumerate(_colored(runs)):
        counts = run.summary.acceptance_histogram
        for length, count in enumerate(counts):
            rows.append((name, color, order, length, count / max(1, sum(counts)), count))
    return pd.DataFrame(rows, columns=["run", "color", "order", "length", "share", "rounds"])


@cache
def time_spec() -> Spec:
    base = empty_chart("run", "part", "slot", "seconds")
    bars = base.mark_bar().encode(
        y=alt.Y("run:N").title(None).sort(None),
        x=alt.X("seconds:Q").title("seconds").stack("zero"),
        color=alt.Color("part:N")
        .scale(domain=list(_PARTS), range=list(_PARTS.values()))
        .legend(orient="top", title=None, symbolSize=60, columns=4),
        order=alt.Order("slot:Q"),
        tooltip=["run:N", "part:N", alt.Tooltip("seconds:Q", format=".3f")],
    )
    return bare_spec(bars)


def time_data(runs: Mapping[str, Run]) -> Data:
    """Return the seconds of each part of each run; clocks that overlap leave no less than 0."""
    rows = [
        (name, part, slot, max(0.0, seconds))
        for name, run in runs.items()
        for slot, (part, seconds) in enumerate(time_shares(run.summary).items())
    ]
    return pd.DataFrame(rows, columns=["run", "part", "slot", "seconds"])
