"""The charts of a run looked at closely: one round's probabilities, and the forecast over K."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import altair as alt
import pandas as pd

from specdec.records import TokenStatus
from specdec.runs.worth import Forecast
from specdec.view.charts import GREEN, PREDICTED_COLOR, Data, Spec, bare_spec, empty_chart, round_up
from specdec.view.inspector import Bar
from specdec.view.palette import DRAFT_COLOR, LOOKS, VERIFY_COLOR

_SIDES = {
    "draft q": DRAFT_COLOR,
    "target p": VERIFY_COLOR,
    "residual": LOOKS[TokenStatus.RESAMPLED].color,
}
_KINDS = {"predicted": PREDICTED_COLOR, "measured": VERIFY_COLOR, "best": GREEN}


@cache
def sides_spec() -> Spec:
    base = empty_chart("token", "order", "side", "prob")
    bars = base.mark_bar().encode(
        y=alt.Y("token:N").sort(field="order").title(None).axis(labelOverlap=False),
        yOffset=alt.YOffset("side:N").sort(list(_SIDES)),
        x=alt.X("prob:Q").title("probability").scale(domain=[0, 1]).axis(format="%"),
        color=alt.Color("side:N")
        .scale(domain=list(_SIDES), range=list(_SIDES.values()))
        .legend(orient="top", title=None, symbolSize=60),
        tooltip=["token:N", "side:N", alt.Tooltip("prob:Q", format=".4f")],
    )
    return bare_spec(bars)


def sides_data(bars: Sequence[Bar]) -> Data:
    """Return one row per token and side; a side that gave no probability has no row."""
    rows = [
        (bar.token, order, side, prob)
        for order, bar in enumerate(bars)
        for side, prob in zip(
            _SIDES, (bar.draft_prob, bar.target_prob, bar.residual_prob), strict=True
        )
        if prob is not None
    ]
    return pd.DataFrame(rows, columns=["token", "order", "side", "prob"])


@cache
def forecast_spec() -> Spec:
    base = empty_chart("k", "nodes", "tokens_per_s", "kind", "end")
    x = alt.X("k:Q").title("drafted tokens one after the other, K").axis(tickMinStep=1, grid=False)
    y = alt.Y("tokens_per_s:Q").title("tokens per second").scale(zero=True, nice=False)
    color = (
        alt.Color("kind:N")
        .scale(domain=list(_KINDS), range=list(_KINDS.values()))
        .legend(orient="top", title=None, symbolSize=60)
    )
    tooltip = [
        "k:Q",
        alt.Tooltip("nodes:Q", format=".3~g", title="drafted tokens a round"),
        "kind:N",
        alt.Tooltip("tokens_per_s:Q", format=".2f"),
    ]
    line = (
        base.mark_line(strokeDash=[5, 3])
        .encode(x=x, y=y, color=color)
        .transform_filter("datum.kind == 'predicted'")
    )
    points = (
        base.mark_point(size=110, filled=True)
        .encode(x=x, y=y, color=color, tooltip=tooltip)
        .transform_filter("datum.kind != 'predicted'")
    )
    named = (
        base.mark_text(dy=-14, fontWeight="bold", color=GREEN)
        .encode(x=x, y=y, text=alt.value("best"))
        .transform_filter("datum.kind == 'best'")
    )
    ends = base.mark_point(opacity=0).encode(y="end:Q")
    return bare_spec(line + points + named + ends)


def forecast_data(prediction: Forecast) -> Data:
    """Return the predicted curve, the measured points and the best K."""
    rows = [(k, speed, "predicted") for k, speed in enumerate(prediction.tokens_per_s)]
    rows += [(k, speed, "measured") for k, speed in prediction.measured]
    rows.append((prediction.best, prediction.tokens_per_s[prediction.best], "best"))
    data = pd.DataFrame(rows, columns=["k", "tokens_per_s", "kind"])
    nodes = data["k"].map(dict(enumerate(prediction.num_nodes)))
    return data.assign(nodes=nodes, end=round_up(1.1 * data["tokens_per_s"].max()))
