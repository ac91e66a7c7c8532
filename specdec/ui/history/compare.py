"""Several saved runs side by side: figures, rounds, time, texts, settings, and what is noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from specdec.errors import StoreError
from specdec.runs.compare import first_divergence, setting_differences
from specdec.runs.run import Run
from specdec.saved.rows import RunFilter, StoredRun
from specdec.saved.store import RunStore
from specdec.ui import dashboard
from specdec.ui.history.list import draw_delete
from specdec.ui.history.store import load_run
from specdec.view import history_charts as charts
from specdec.view import words
from specdec.view.history_words import (
    Repeated,
    heading,
    kpi_rows,
    noise_sentences,
    repeated_rows,
    setting_rows,
)
from specdec.view.text import SHOWN_CONTROLS

_FIRST_WORD = re.compile(r"\s*\S{1,20}|\s+")
MAX_COMPARED = 12
MAX_REPETITIONS = 500
TEXT_HEIGHT_PX = 320
STYLE = """<style>
.run-name {margin: 0; padding: 0; font-size: 1.15rem; overflow-wrap: anywhere}
.run-note {white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; margin: 0}
.run-text {white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext;
  line-height: 1.6}
.run-text .common {opacity: 0.6}
.run-text mark {background: #f59e0b55; color: inherit; border-left: 3px solid #f59e0b;
  padding: 0 2px}
.run-key {display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.9rem}
.run-key span {overflow-wrap: anywhere}
</style>"""


def draw(store: RunStore, lines: Sequence[StoredRun]) -> None:
    """Draw the comparison of two or more lines of the list."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="actions"):
        by_name = {_name(line): line for line in lines}
        reference = st.selectbox(
            "Compared with",
            list(by_name),
            format_func=lambda name: f"{name} {heading(by_name[name])}",
            key=f"reference_{lines[0].id}_{len(lines)}",
            help="Differences are those to this run.",
        )
        draw_delete(store, lines)
    # The reference comes first, so that it is always among those that are drawn.
    ordered = [by_name[reference], *(line for line in lines if _name(line) != reference)]
    _draw_noise(store, ordered)
    _draw_scatter(ordered)
    pairs = _load(store, ordered[:MAX_COMPARED])
    if len(lines) > MAX_COMPARED:
        st.caption(
            f"{len(lines):,} runs are selected; the first {MAX_COMPARED} are drawn below, the "
            "repetitions above count all."
        )
    if len(pairs) > 1:
        _draw_runs([line for line, _ in pairs], [run for _, run in pairs])


def _name(line: StoredRun) -> str:
    return f"#{line.id}"


def _draw_scatter(lines: Sequence[StoredRun]) -> None:
    """Draw speed against acceptance, of all selected runs that drafted."""
    data = charts.scatter_data({_name(line): line for line in lines}, MAX_COMPARED)
    if len(data) > 1:
        dashboard.draw_chart(
            "Speed against acceptance",
            "Measured, one spot for each selected run that drafted. What lies further right and "
            "no higher guessed better and paid as much for it: a dearer draft, more tokens "
            "drafted at a time, or a longer link.",
            data,
            charts.scatter_spec(),
            "Tokens per second against the share of drafted tokens accepted, a spot for each run",
        )


def _load(store: RunStore, lines: Sequence[StoredRun]) -> list[tuple[StoredRun, Run]]:
    """Open what can be opened, and say what cannot."""
    pairs = []
    for line in lines:
        try:
            pairs.append((line, load_run(store, line)))
        except StoreError as error:
            st.warning(words.plain(str(error)), icon=":material/info:")
    return pairs


def _draw_runs(lines: Sequence[StoredRun], runs: Sequence[Run]) -> None:
    names = [_name(line) for line in lines]
    st.markdown(
        "**Figures**", help=f"Measured. In brackets: the difference to {names[0]}, the reference."
    )
    st.dataframe(pd.DataFrame(kpi_rows(runs, names, 0)), hide_index=True)
    _draw_settings(runs, names)
    _draw_key(lines)
    _draw_charts(dict(zip(names, runs, strict=True)))
    _draw_texts(runs, names)


def _draw_key(lines: Sequence[StoredRun]) -> None:
    items = "".join(
        f'<span><b style="color:{color}">━━ {_name(line)}</b> {escape(heading(line))}</span>'
        for line, color in zip(lines, charts.COLORS, strict=False)
    )
    st.html(f'<div class="run-key">{items}</div>')


def _draw_charts(runs: dict[str, Run]) -> None:
    if any(run.rounds for run in runs.values()):
        points = charts.points(runs)
        left, right = st.columns(2)
        with left:
            dashboard.draw_chart(
                "Tokens per second",
                "Measured, over the last 50 rounds at most.",
                charts.rolling_data(runs, points, lambda stats: stats.tokens_per_s),
                charts.rolling_spec("tokens per second", is_share=False),
                "Tokens per second by round, one line for each run",
            )
        with right:
            dashboard.draw_chart(
                "Acceptance",
                "Accepted over drafted tokens, measured, in the last 50 rounds at most.",
                charts.rolling_data(runs, points, lambda stats: stats.draft_acceptance_rate),
                charts.rolling_spec("accepted", is_share=True),
                "Acceptance rate by round, one line for each run",
            )
    left, right = st.columns(2)
    with left:
        dashboard.draw_chart(
            "Acceptance by position",
            "The share of drafted rounds in which every token up to this position was accepted.",
            charts.position_data(runs),
            charts.position_spec(),
            "Acceptance by position in the draft, one line for each run",
        )
    with right:
        dashboard.draw_chart(
            "Accepted length",
            "The share of drafted rounds that accepted 0, 1, 2, … tokens; one more comes with "
            "each round.",
            charts.histogram_data(runs),
            charts.histogram_spec(),
            "Histogram of accepted tokens per round, for each run",
        )
    dashboard.draw_chart(
        "Where the time went",
        "Measured seconds of the whole run. Verify is without the link; other is what no part "
        "claims.",
        charts.time_data(runs),
        charts.time_spec(),
        "Seconds by part, one bar for each run",
        height_px=140 + 36 * len(runs),
    )


# -- texts and settings --------------------------------------------------------------------------


def text_html(text: str) -> str:
    """Return text that a model or a user wrote as HTML that shows it and nothing else."""
    return f'<div class="run-text">{_escaped(text)}</div>'


def divided_html(common: str, rest: str) -> str:
    """Return a text in which the word is marked that first differs from another one."""
    found = _FIRST_WORD.match(rest)
    first, others = (found[0], rest[found.end() :]) if found else ("⏹ ends here", "")
    head = f'<span class="common">{_escaped(common)}</span>' if common else ""
    return f'<div class="run-text">{head}<mark>{_escaped(first)}</mark>{_escaped(others)}</div>'


def _escaped(text: str) -> str:
    return escape(text.translate(SHOWN_CONTROLS))


def _draw_texts(runs: Sequence[Run], names: Sequence[str]) -> None:
    other = 1
    if len(runs) > 2:
        other = st.selectbox(
            f"Text of {names[0]} beside that of",
            range(1, len(runs)),
            format_func=lambda index: names[index],
            key=f"text_{'_'.join(names)}",
        )
    found = first_divergence(runs[0], runs[other])
    if found is None:
        same = "neither wrote anything" if not runs[0].text else "they are the same"
        st.markdown(f"**Texts of {names[0]} and {names[other]}:** {same}")
        if runs[0].text:
            with st.container(height=TEXT_HEIGHT_PX, key="texts"):
                st.html(text_html(runs[0].text))
        return
    by_token = runs[0].rounds and runs[other].rounds and runs[0].target == runs[other].target
    unit = "token" if by_token else "character"
    st.markdown(f"**Texts.** They first differ at {unit} {found.position + 1}, which is marked.")
    for column, name, rest in zip(st.columns(2), (names[0], names[other]), found.rest, strict=True):
        with column:
            st.caption(name)
            with st.container(height=TEXT_HEIGHT_PX, key=f"text_of_{name[1:]}"):
                st.html(divided_html(found.common, rest))


def _draw_settings(runs: Sequence[Run], names: Sequence[str]) -> None:
    rows = setting_rows(setting_differences(runs), names)
    if rows:
        st.markdown("**What was set differently**")
        st.dataframe(pd.DataFrame(rows), hide_index=True)
    else:
        st.caption("Everything was set alike, the seed included.")


# -- repetitions ---------------------------------------------------------------------------------


def _draw_noise(store: RunStore, lines: Sequence[StoredRun]) -> None:
    """Draw means over repetitions; the first line's configuration is the reference."""
    count_all = st.toggle(
        "Count every saved repetition",
        True,
        key="count_repetitions",
        help="Also those that are not selected: runs of the same configuration and prompt, on a "
        "machine alike, whatever their seeds.",
    )
    groups = _groups(store, lines, count_all=count_all)
    if len(groups) == 1 and len(groups[0].lines) < 2:
        return
    st.markdown(
        "**Repetitions**",
        help="Means with their 95 % bootstrap intervals, from three runs on. With so few runs an "
        "interval is a rough one.",
    )
    st.dataframe(pd.DataFrame(repeated_rows(groups)), hide_index=True)
    if len(groups) == 1 and len(lines) > 1:
        st.caption(
            "The selected runs repeat one configuration: what differs between them is noise."
        )
    for group in groups[1:]:
        for sentence in noise_sentences(groups[0], group):
            st.markdown(f"- {words.plain(sentence)}")


def _groups(store: RunStore, lines: Sequence[StoredRun], *, count_all: bool) -> list[Repeated]:
    by_key: dict[str, list[StoredRun]] = {}
    for line in lines:
        by_key.setdefault(line.group_key, []).append(line)
    groups = []
    for key, members in by_key.items():
        name = _name(members[0])
        if count_all:
            members = store.list_runs(RunFilter(group_key=key), limit=MAX_REPETITIONS)
        more = len(members) - 1
        groups.append(Repeated(f"{name} and {more} like it" if more else name, tuple(members)))
    return groups
