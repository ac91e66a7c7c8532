"""The charts of a run beside and below its tree, and how every chart of the pages is drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import streamlit as st

from specdec.metrics import Baseline
from specdec.runs.speedup import measure_speedup
from specdec.view import charts, lanes_chart, words
from specdec.view.playback import Charts
from specdec.view.run_view import RunView

SMALL_CHART_HEIGHT_PX = 118
LANES_HEIGHT_PX = 190


def gauges(view: RunView, baseline: Baseline | None, *, link: str) -> Charts:
    """Return the acceptance gauge and the speed-ups, as they stand now."""
    stats = view.stats
    rate = stats.draft_acceptance_rate if stats else None
    emulated = " The link is emulated: a real wait around every call." * (link == "emulated")
    gauge = _packed(
        "Acceptance, last 50 rounds",
        "Accepted over drafted tokens, measured, in the last 50 rounds at most. Green above 75 %, "
        "yellow from 50 %, red below. Three rates hang together: per test, α, is the chance that "
        "one token passes; by position, every token before it has to pass too, about α to the "
        "power of the position; of drafted tokens, shown here, is the mean over all positions, "
        "so a longer draft lowers it although each test is the same.",
        charts.gauge_data(rate),
        charts.gauge_spec(),
        f"Acceptance rate: {words.percent(rate)}",
        charts.GAUGE_HEIGHT_PX,
    )
    speedup = _packed(
        "Speed-up",
        "The pace of this run over that of plain decoding by the same target, both measured on "
        "this machine: over the same link (one call per token crosses it), and by "
        f"the target where it is, without the link. Reading the prompt is in neither.{emulated}",
        charts.speedup_data(measure_speedup(view.rounds, view.summary, baseline), bool(link)),
        charts.speedup_spec(),
        "Speed-up against plain decoding",
    )
    return gauge, speedup


def speed(view: RunView, baseline: Baseline | None, *, link: str) -> Charts:
    """Return tokens per second, and where the time of the last rounds went."""
    kind = f" ({link})" if link else ""
    tokens_per_s = _packed(
        "Tokens per second by round",
        "Measured. Strong: over the last 50 rounds at most; faint: over the run so far. Dashed: "
        "plain decoding of the same target, "
        f"measured{f', over the {link} link and without it' if link else ''}. A dotted violet "
        "line marks a round from which on a setting was another one, and says which.",
        charts.speed_data(view.points, baseline, bool(link), view.changes),
        charts.speed_spec(),
        "Tokens per second by round",
        SMALL_CHART_HEIGHT_PX,
    )
    latency = _packed(
        "Milliseconds per round",
        f"Measured, for the last {charts.LATENCY_ROUNDS} rounds. Draft: the drafter's forward "
        f"passes. Verify: the target's. Link{kind}: the network's share of the call. "
        "Other: making distributions, testing and drawing tokens, and repeated attempts.",
        charts.latency_data(view.rounds),
        charts.latency_spec(),
        "Draft, verify, link and other milliseconds of the last rounds",
        SMALL_CHART_HEIGHT_PX,
    )
    return tokens_per_s, latency


def acceptance(view: RunView) -> Charts:
    """Return acceptance by position and the histogram of accepted lengths."""
    position = _packed(
        "Acceptance by position",
        "Bars: the share of drafted rounds in which every token up to this position was "
        "accepted, measured. Dashed: α to the power of the position, predicted by the closed "
        "form from the mean acceptance α, as if every test were alike.",
        charts.position_data(view.summary, view.mean_acceptance),
        charts.position_spec(),
        "Acceptance by position, measured and predicted",
    )
    histogram = _packed(
        "Accepted length",
        "How many drafted rounds accepted 0, 1, 2, … tokens, measured. One more token, "
        "resampled or bonus, comes with each round.",
        charts.histogram_data(view.summary),
        charts.histogram_spec(),
        "Histogram of accepted tokens per round",
    )
    return position, histogram


def draw_lanes(view: RunView, *, link: str) -> None:
    """Draw where the time of a whole run went, on a time line that can be zoomed into."""
    kind = f" ({link})" if link else ""
    draw_chart(
        "Lanes over the run",
        f"Measured, for {lanes_chart.MAX_ROUNDS} rounds at most. Each block is a piece of one "
        "round: the drafter at work, the target's call, the network's share of it"
        f"{kind}, and the rest. How much of the network's share came before the target's and how "
        "much after is not known; it is drawn behind. Drag to move along, scroll to zoom, double "
        "click to see all again.",
        lanes_chart.lanes_data(view.rounds),
        lanes_chart.lanes_spec(),
        "Draft, verify, link and other time on a time line",
        LANES_HEIGHT_PX,
    )


def _packed(
    title: str,
    meaning: str,
    data: charts.Data,
    spec: charts.Spec,
    alt: str,
    height_px: int = charts.HEIGHT_PX,
) -> Callable[[], None]:
    """Return a chart that may be drawn many times, with its data in the form they travel in."""
    return partial(draw_chart, title, meaning, pa.Table.from_pandas(data), spec, alt, height_px)


def draw_column(drawings: Charts) -> None:
    """Draw charts below each other."""
    for draw in drawings:
        draw()


def draw_row(drawings: Charts) -> None:
    """Draw charts side by side."""
    for column, draw in zip(st.columns(len(drawings)), drawings, strict=True):
        with column:
            draw()


def draw_chart(
    title: str,
    meaning: str,
    data: charts.Data | pa.Table,
    spec: charts.Spec,
    alt: str,
    height_px: int = charts.HEIGHT_PX,
) -> None:
    """Draw a chart below its title; its height is known before the chart is there.

    Args:
        title: of the chart.
        meaning: definition of what it shows, and whether it is measured, predicted or emulated.
        data: changes with every update.
        spec: never changes.
        alt: what a screen reader says.
        height_px: of the chart.
    """
    st.markdown(f"**{title}**", help=meaning)
    # Data without a name comes after the chart is mounted, and Vega warns of axes without extent.
    named = {"data": {"name": "rows"}, "datasets": {"rows": data}}
    st.vega_lite_chart({**spec, **named}, height=height_px, alt=alt)
