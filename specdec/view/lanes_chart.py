"""A run on a time line: one lane each for draft, verify, link and other, as in a profiler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import altair as alt
import pandas as pd

from specdec.records import RoundResult
from specdec.view.charts import PARTS, Data, Spec, bare_spec, empty_chart

MAX_ROUNDS = 2000
"""More blocks than these rounds have make a browser slow, and none of them could be seen."""


@cache
def lanes_spec() -> Spec:
    blocks = (
        empty_chart("part", "begin_s", "end_s", "round", "ms")
        .mark_bar(stroke=None)
        .encode(
            x=alt.X("begin_s:Q").title("seconds since the run began").scale(nice=False),
            x2="end_s:Q",
            y=alt.Y("part:N").sort(list(PARTS)).title(None),
            color=alt.Color("part:N")
            .scale(domain=list(PARTS), range=list(PARTS.values()))
            .legend(None),
            tooltip=["round:Q", "part:N", alt.Tooltip("ms:Q", format=".1f", title="milliseconds")],
        )
        .add_params(alt.selection_interval(bind="scales", encodings=["x"]))
    )
    return bare_spec(blocks)


def lanes_data(rounds: Sequence[RoundResult]) -> Data:
    """Return one row per piece of a round, of the last `MAX_ROUNDS` rounds."""
    rows = [
        (part, begin_s, end_s, result.round + 1, 1e3 * (end_s - begin_s))
        for result in rounds[-MAX_ROUNDS:]
        for part, begin_s, end_s in _pieces(result)
    ]
    return pd.DataFrame(rows, columns=["part", "begin_s", "end_s", "round", "ms"])


def _pieces(result: RoundResult) -> Iterator[tuple[str, float, float]]:
    """Give the pieces of a round one behind the other, from its start to its end."""
    begin_s, stop_s = result.started_s, result.started_s + result.wall_s
    spans = (
        ("draft", result.draft_s),
        ("verify", result.verify_s - result.link_s),
        ("link", result.link_s),
        ("other", result.wall_s),
    )
    for part, span_s in spans:
        end_s = min(stop_s, begin_s + max(0.0, span_s))
        if end_s > begin_s:
            yield part, begin_s, end_s
        begin_s = end_s
