"""The chart of a policy at work: K over the rounds, what was drafted of it, and every move."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import altair as alt
import pandas as pd

from specdec.records import RoundResult
from specdec.runs.moves import Move
from specdec.view.charts import Data, Spec, bare_spec, empty_chart
from specdec.view.palette import DRAFT_COLOR, OTHER_COLOR

K_LINE, NODES, MOVES = "K", "drafted", "moved"
_KINDS = {K_LINE: DRAFT_COLOR, NODES: OTHER_COLOR, MOVES: "#f59e0b"}
_COLUMNS = ["kind", "round", "left", "right", "tokens", "nodes", "why"]


@cache
def policy_spec() -> Spec:
    """Return bars of what was drafted, a step line of K over them, and a diamond at each move."""
    base = empty_chart(*_COLUMNS)
    x = (
        alt.X("round:Q")
        .title("round")
        .axis(tickMinStep=1, grid=False)
        .scale(zero=False, nice=False, padding=8)
    )
    y = alt.Y("tokens:Q").title("tokens").axis(tickMinStep=1).scale(zero=True)
    color = (
        alt.Color("kind:N")
        .scale(domain=list(_KINDS), range=list(_KINDS.values()))
        .legend(orient="top", title=None, symbolType="square", symbolSize=60, symbolOpacity=1)
    )
    facts = [
        alt.Tooltip("round:Q"),
        alt.Tooltip("tokens:Q", title="K"),
        alt.Tooltip("nodes:Q", title="tokens drafted"),
    ]
    bars = (
        base.mark_bar(opacity=0.3)
        .encode(
            x=alt.X("left:Q"),
            x2="right:Q",
            y=alt.Y("nodes:Q"),
            y2=alt.datum(0),
            color=color,
            tooltip=facts,
        )
        .transform_filter(f"datum.kind == '{NODES}'")
    )
    line = (
        base.mark_line(interpolate="step", strokeWidth=2)
        .encode(x=x, y=y, color=color)
        .transform_filter(f"datum.kind == '{K_LINE}'")
    )
    marks = (
        base.mark_point(shape="diamond", filled=True, opacity=1, size=90)
        .encode(x=x, y=y, color=color, tooltip=[*facts, alt.Tooltip("why:N", title="why")])
        .transform_filter(f"datum.kind == '{MOVES}'")
    )
    return bare_spec(bars + line + marks)


def policy_data(rounds: Sequence[RoundResult], made: Sequence[Move]) -> Data:
    """Return a row of each round for line and bars, and one for each move; rounds count from 1."""
    why = {move.round: move.why for move in made}
    rows = [
        (
            *(kind, result.round + 1, result.round + 0.6, result.round + 1.4),
            *(result.num_draft_tokens, result.num_drafted, why.get(result.round, "")),
        )
        for result in rounds
        for kind in (NODES, K_LINE, *([MOVES] if result.round in why else []))
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)
