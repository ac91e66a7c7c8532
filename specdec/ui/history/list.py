"""The list of saved runs: filters, the table, and what can be done to the lines chosen in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from specdec.errors import SpecdecError
from specdec.saved.rows import MAX_RHYTHM, RunFilter, StoredRun
from specdec.saved.store import RunStore
from specdec.ui import kept
from specdec.ui.notice import count_of_runs, tell
from specdec.view.history_words import heading

MAX_LINES = 1000
"""More lines than this are neither sent to the browser nor looked through by anybody."""
MAX_CHOSEN_AGAIN = 50
"""More than these would make an address that browsers cut off."""
TABLE_HEIGHT_PX = 320
SORTS = {
    "Latest first": ("started_at", True),
    "Oldest first": ("started_at", False),
    "Fastest first": ("tokens_per_s", True),
    "Largest speed-up first": ("speedup", True),
    "Highest acceptance first": ("draft_acceptance_rate", True),
    "Most tokens first": ("num_tokens", True),
}


ADDRESS = "run"
"""The parameter of the page's address that says which runs are selected."""
_NUMBER = re.compile(r"[0-9]{1,9}")


def choose(run_ids: Collection[int]) -> None:
    """Select these runs when the list is drawn next; the page's address names them."""
    named = ",".join(map(str, sorted(run_ids)))
    if named != _address():
        if named:
            st.query_params[ADDRESS] = named
        else:
            del st.query_params[ADDRESS]
    kept.keep_history({ADDRESS: named} if named else {})
    st.session_state.chosen_by_list = named


def choose_again(run_ids: Collection[int]) -> None:
    """Select runs that were brought back, unless they are more than anybody looks at."""
    choose(run_ids if len(run_ids) <= MAX_CHOSEN_AGAIN else ())


def _address() -> str:
    return st.query_params.get(ADDRESS, "")


def _wanted() -> tuple[set[int], int]:
    """Return the runs that the page's address selects, and how often it was changed from outside.

    A link or the browser's back button changes it; the list has to be a new one then, because a
    list keeps its own selection.
    """
    if _address() != st.session_state.get("chosen_by_list"):
        st.session_state.chosen_by_list = _address()
        st.session_state.num_lists = st.session_state.get("num_lists", 0) + 1
    numbers = {int(number) for number in _NUMBER.findall(_address())}
    return numbers, st.session_state.get("num_lists", 0)


# -- what the list is narrowed to ----------------------------------------------------------------


def draw_filters(store: RunStore) -> RunFilter:
    """Draw the filters and return what they say."""
    choices = store.choices()
    with st.popover("Filter", icon=":material/filter_list:", key="filters"):
        targets = st.multiselect("Target", choices.targets, key="filter_targets")
        drafts = st.multiselect("Draft", choices.drafts, key="filter_drafts")
        tags = st.multiselect("Tags, all of them", choices.tags, key="filter_tags")
        days = st.date_input("Started, from and to", [], key="filter_days")
    since, until = day_bounds(days if isinstance(days, tuple) else (days,), visitor_zone())
    search = st.session_state.get("filter_search", "").strip()
    return RunFilter(search, tuple(targets), tuple(drafts), tuple(tags), since=since, until=until)


def draw_search() -> None:
    st.text_input(
        "Search",
        key="filter_search",
        placeholder="Search in prompts, names and notes",
        label_visibility="collapsed",
        icon=":material/search:",
    )


def visitor_zone() -> tzinfo:
    """Return the time zone of the visitor's browser, UTC where it is not known."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def day_bounds(days: Sequence[date | None], zone: tzinfo) -> tuple[str, str]:
    """Return the first moment of the first day and of the day after the last, UTC, ISO 8601."""
    known = [day for day in days if day is not None]
    if not known:
        return "", ""
    return _midnight(known[0], zone), _midnight(known[-1] + timedelta(days=1), zone)


def _midnight(day: date, zone: tzinfo) -> str:
    moment = datetime.combine(day, time.min, zone).astimezone(UTC)
    return moment.isoformat(timespec="microseconds")


# -- the table -----------------------------------------------------------------------------------


def draw_table(store: RunStore, where: RunFilter) -> list[StoredRun]:
    """Draw the list and return the lines that are selected, in its order."""
    order_by, descending = SORTS[st.session_state.get("sort") or "Latest first"]
    damaged: list[int] = []
    lines = store.list_runs(
        where,
        order_by=order_by,
        descending=descending,
        limit=MAX_LINES,
        on_damaged=damaged.extend,
    )
    if damaged:
        _draw_damaged(store, damaged)
    if not lines:
        _draw_nothing(narrowed=where != RunFilter())
        return []
    wanted, version = _wanted()
    at = [row for row, line in enumerate(lines) if line.id in wanted]
    identity = hashlib.sha256(repr([line.id for line in lines]).encode()).hexdigest()[:12]
    event = st.dataframe(
        table(lines),
        key=f"runs_{identity}_{version}",
        height=min(TABLE_HEIGHT_PX, 40 + 35 * len(lines)),
        hide_index=True,
        placeholder="–",
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": at}},
        column_config=_columns(),
        alt="Saved runs; select one to look at it, two or more to compare them",
    )
    rows = [row for row in event["selection"]["rows"] if row < len(lines)]
    selected = [lines[row] for row in sorted(rows)]
    choose([line.id for line in selected])
    if len(lines) == MAX_LINES:
        st.caption(
            f"The first {MAX_LINES:,} of {store.count(where):,} runs; search, filter or sort to "
            "see others."
        )
    return selected


def _draw_damaged(store: RunStore, run_ids: list[int]) -> None:
    """Say that lines are left out, and offer to delete them."""
    with st.container(horizontal=True, vertical_alignment="center", key="damaged_bar"):
        st.caption(
            f":material/broken_image: {count_of_runs(len(run_ids))} left out of this list: what "
            "is stored there is damaged."
        )
        st.button("Delete", key="delete_damaged", on_click=_delete, args=(store, run_ids))


def draw_sort() -> None:
    st.selectbox("Sort", list(SORTS), key="sort", label_visibility="collapsed", width=220)


def _draw_nothing(*, narrowed: bool) -> None:
    if narrowed:
        st.info("No saved run fits the search and the filters; clear one of them.")
    else:
        st.info(
            "Nothing is saved yet. Every run of the live page appears here the moment it ends, "
            "also one that was stopped or failed. You can import a run from a file, too."
        )


def table(lines: Sequence[StoredRun]) -> pd.DataFrame:
    """Return the list as it is shown; texts stay texts, and what is not known stays empty."""
    rows = [
        {
            "run": line.id,
            "started": line.started_at[:19],
            "name": heading(line),
            "draft": line.draft,
            "k": line.num_draft_tokens,
            "temperature": line.temperature,
            "tokens_per_s": line.tokens_per_s,
            "speedup": line.speedup,
            "sure": _sure(line),
            "acceptance": _in_percent(line.draft_acceptance_rate),
            "length": line.mean_acceptance_length,
            "rhythm": _rhythm(line),
            "tokens": line.num_tokens,
            "ended": line.finish_reason,
            "target": line.target,
            "tags": list(line.tags),
            "note": line.note,
        }
        for line in lines
    ]
    frame = pd.DataFrame(rows)
    frame["started"] = pd.to_datetime(frame["started"], errors="coerce", utc=True)
    return frame


def _in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _sure(line: StoredRun) -> str | None:
    if line.speedup_low is None or line.speedup_high is None:
        return None
    return f"{line.speedup_low:.2f}–{line.speedup_high:.2f}"


def _rhythm(line: StoredRun) -> list[float]:
    """Return tokens per call in the course of a run; nothing where the row does not tell."""
    try:
        means = json.loads(line.rhythm or "[]")
        return [float(mean) for mean in means][:MAX_RHYTHM]
    except (TypeError, ValueError, RecursionError):
        return []


def _columns() -> dict[str, ColumnConfig | str | None]:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "run": number("#", width=42, format="%d"),
        "started": st.column_config.DatetimeColumn(
            "Started", format="YYYY-MM-DD HH:mm", timezone=str(visitor_zone()), width=125
        ),
        "name": text("Name or prompt", width=165),
        "target": text("Target"),
        "draft": text("Draft", width=105),
        "k": number("K", width=40, help="Drafted tokens per round, as set at the start."),
        "temperature": number("Temp.", width=58, format="%.2f"),
        "tokens": number("Tokens", width=70),
        "tokens_per_s": number("Tokens/s", format="%.1f", width=76),
        "speedup": number("Speed-up", format="%.2f ×", width=76, help="Over plain decoding."),
        "sure": text(
            "95 %", width=90, help="The speed-up if the same run were made again; see its page."
        ),
        "acceptance": number("Accepted", format="%.1f %%", width=76, help="Of drafted tokens."),
        "length": number(
            "Length", format="%.2f", width=70, help="Mean acceptance length: tokens per round."
        ),
        "rhythm": st.column_config.LineChartColumn(
            "Tokens per call", width=110, y_min=1, help="In the course of the run."
        ),
        "ended": text("Ended", width=80),
        "tags": st.column_config.ListColumn("Tags"),
        "note": text("Note"),
    }


# -- what can be done to a line ------------------------------------------------------------------


def draw_delete(store: RunStore, lines: Sequence[StoredRun]) -> None:
    """Offer to take the selected runs off the list."""
    st.button(
        f"Delete {count_of_runs(len(lines))}",
        icon=":material/delete:",
        key="delete",
        on_click=_delete,
        args=(store, [line.id for line in lines]),
    )


def _delete(store: RunStore, run_ids: list[int]) -> None:
    try:
        store.delete(run_ids)
    except SpecdecError as error:
        tell("error", str(error))
    else:
        choose([])


def draw_words(store: RunStore, line: StoredRun) -> None:
    """Offer to name a run, to note something about it and to tag it."""
    with (
        st.popover("Name, note, tags", icon=":material/edit:", key=f"words_{line.id}"),
        st.form(f"words_form_{line.id}", border=False),
    ):
        title = st.text_input(
            "Name", line.title, key=f"title_{line.id}", placeholder="Its prompt, if empty"
        )
        note = st.text_area("Note", line.note, key=f"note_{line.id}")
        tags = st.multiselect(
            "Tags",
            sorted({*store.choices().tags, *line.tags}),
            list(line.tags),
            accept_new_options=True,
            key=f"tags_{line.id}",
        )
        submitted = st.form_submit_button("Save", key="save_words")
    if submitted:
        try:
            store.edit(line.id, title=title.strip(), note=note, tags=[*dict.fromkeys(tags)])
        except SpecdecError as error:
            tell("error", str(error))
        st.rerun()
