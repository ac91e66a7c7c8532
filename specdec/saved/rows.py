"""What a list of saved runs shows of each, and how it is narrowed: the tables' side of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import sqlalchemy as sa

from specdec.codec import dumps, to_json
from specdec.metrics import tested_per_pos
from specdec.runs.compare import group_key
from specdec.runs.machine import machine_mark
from specdec.runs.run import Run
from specdec.runs.speedup import speedup_of

EXCERPT_CHARS = 200
MAX_RHYTHM = 30


class StoredRun(NamedTuple):
    """One line of the list. `prompt` is only its beginning; None stands where nothing is known.

    `speedup_low` and `speedup_high` are the ends of its 95 % interval; `rhythm` is how many tokens
    the target's calls brought in the course of the run, a few means as JSON (see `rhythm_of`).

    A tuple, because a list makes 10,000 of them at once, six times as fast as dataclasses.
    """

    id: int
    started_at: str
    title: str
    note: str
    tags: tuple[str, ...]
    prompt: str
    target: str
    draft: str
    backend: str
    exactness: str
    group_key: str
    num_draft_tokens: int | None
    temperature: float | None
    seed: int | None
    rtt_ms: float | None
    finish_reason: str
    num_tokens: int
    draft_acceptance_rate: float | None
    mean_acceptance_length: float | None
    tokens_per_s: float | None
    speedup: float | None
    ttft_s: float | None
    wall_s: float
    speedup_low: float | None
    speedup_high: float | None
    rhythm: str | None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What a list is narrowed to; an empty field narrows nothing.

    Attributes:
        search: must occur in the prompt, title or note, in capitals or not.
        targets: one of these.
        drafts: one of these.
        tags: all of these.
        group_key: repetitions of one configuration (`compare.group_key`).
        since: the earliest start, UTC, ISO 8601.
        until: a start before this.
        sweep: cells of this sweep; 0 for runs that are none of any sweep's.
    """

    search: str = ""
    targets: Collection[str] = ()
    drafts: Collection[str] = ()
    tags: Collection[str] = ()
    group_key: str = ""
    since: str = ""
    until: str = ""
    sweep: int = 0


@dataclass(frozen=True, slots=True)
class Choices:
    """What occurs in the saved runs, in alphabetical order, for filters to offer."""

    targets: tuple[str, ...]
    drafts: tuple[str, ...]
    tags: tuple[str, ...]


class Words(sa.TypeDecorator[tuple[str, ...]]):
    """A tuple of texts in one column, as a JSON array."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else _json(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[str, ...] | None:
        """Return the texts, None where something else is stored."""
        if value == "[]":  # nearly always, and ten thousand times in a list
            return ()
        try:
            words = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            return None
        is_sound = isinstance(words, list) and all(isinstance(word, str) for word in words)
        return tuple(words) if is_sound else None


COLUMNS = StoredRun._fields
_KINDS_OF_ROWS = tuple(
    (tuple,) if get_origin(kind) is tuple else get_args(kind) or (kind,)
    for kind in get_type_hints(StoredRun).values()
)


def is_sound(row: Sequence[Any]) -> bool:
    """Say whether a row as the database gives it is a `StoredRun`: kinds as declared, no infinity.

    Another program may have written it, and SQLite keeps anything in any column.
    """
    numbers = (value for value in row if isinstance(value, float))
    return _are_sound(tuple(map(type, row))) and all(map(math.isfinite, numbers))


@lru_cache(maxsize=256)
def _are_sound(types: tuple[type, ...]) -> bool:
    """Look at the types alone; nearly all rows of a list share one or two combinations."""
    return all(
        found in kinds or (found is int and float in kinds)
        for found, kinds in zip(types, _KINDS_OF_ROWS, strict=True)
    )


RUNS = sa.table(
    "specdec_runs",
    *(sa.column(name, Words if name == "tags" else None) for name in (*COLUMNS, "deleted_at")),
)
TRACES = sa.table("specdec_traces", sa.column("run_id"), sa.column("body", sa.LargeBinary))
SWEEPS = sa.table("specdec_sweeps", *map(sa.column, ("id", "digest", "name", "plan", "started_at")))
CELLS = sa.table("specdec_cells", *map(sa.column, ("sweep_id", "cell", "run_id", "totals")))
KEPT = RUNS.c.deleted_at.is_(None)


def row_of(run: Run) -> dict[str, Any]:
    """Return the columns of `run`; texts lose the NUL characters that some databases refuse."""
    config, summary = run.config, run.summary
    found = speedup_of(run)
    row: dict[str, Any] = {
        "started_at": run.started_at,
        "title": run.title,
        "note": run.note,
        "tags": run.tags,
        "prompt": run.prompt,
        "target": run.target.name,
        "draft": run.drafting,
        "backend": run.backend,
        "exactness": run.exactness,
        "group_key": group_key(run),
        "num_draft_tokens": config.num_draft_tokens if config else None,
        "temperature": config.temperature if config else None,
        "seed": config.seed if config else None,
        "rtt_ms": config.rtt_ms if config else None,
        "finish_reason": summary.finish_reason.value,
        "num_tokens": summary.num_tokens,
        "draft_acceptance_rate": summary.draft_acceptance_rate,
        "mean_acceptance_length": summary.mean_acceptance_length,
        "tokens_per_s": summary.tokens_per_s,
        "speedup": found.over_link.mean if found else None,
        "speedup_low": found.over_link.low if found else None,
        "speedup_high": found.over_link.high if found else None,
        "rhythm": rhythm_of(run),
        "ttft_s": summary.ttft_s,
        "wall_s": summary.wall_s,
    }
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
        for name, value in row.items()
    }


def rhythm_of(run: Run) -> str | None:
    """Return the tokens per target call of up to 30 stretches of the run, as a JSON array."""
    counts = [len(result.emitted) for result in run.rounds]
    if not counts:
        return None
    parts = min(MAX_RHYTHM, len(counts))
    ends = [round(len(counts) * part / parts) for part in range(parts + 1)]
    means = [fmean(counts[start:end]) for start, end in pairwise(ends)]
    return json.dumps([round(mean, 2) for mean in means])


def cell_totals(run: Run) -> str:
    """Return what a sweep keeps of a cell's run beside it: the totals, and where it was made."""
    tested = tested_per_pos(run.rounds)
    facts = {"machine": machine_mark(), "tested": tested, "summary": to_json(run.summary)}
    return dumps(facts)


def conditions(where: RunFilter) -> list[sa.ColumnElement[bool]]:
    """Return what a row must fulfil to be in the list."""
    columns = RUNS.c
    cells = sa.select(CELLS.c.run_id)
    must: list[sa.ColumnElement[bool]] = [
        KEPT,
        columns.id.in_(cells.where(CELLS.c.sweep_id == where.sweep))
        if where.sweep
        else columns.id.not_in(cells),
    ]
    if where.search:
        texts = (columns.prompt, columns.title, columns.note)
        must.append(sa.or_(*(t.icontains(where.search, autoescape=True) for t in texts)))
    if where.targets:
        must.append(columns.target.in_(list(where.targets)))
    if where.drafts:
        must.append(columns.draft.in_(list(where.drafts)))
    stored_tags = sa.type_coerce(columns.tags, sa.Text)
    must += [stored_tags.icontains(_json([tag])[1:-1], autoescape=True) for tag in where.tags]
    if where.group_key:
        must.append(columns.group_key == where.group_key)
    if where.since:
        must.append(columns.started_at >= where.since)
    if where.until:
        must.append(columns.started_at < where.until)
    return must


def _json(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)
