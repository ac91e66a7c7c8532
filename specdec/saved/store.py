"""Saved runs: a row of numbers and words for each, and its rounds as a compressed trace apart.

Lists read the rows only; a trace is opened when somebody looks at that run. Title, note and tags
live in the row, because they change; everything else never does. SQLite in one file by default,
any other database that SQLAlchemy reaches by its URL: there is one code path for all.

A run is written in one transaction: after a crash it is there or it is not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from specdec.errors import SettingsError, StoreError, TraceError
from specdec.runs.run import Run, check_words
from specdec.saved.database import Database
from specdec.saved.rows import (
    CELLS,
    COLUMNS,
    EXCERPT_CHARS,
    KEPT,
    RUNS,
    SWEEPS,
    TRACES,
    Choices,
    RunFilter,
    StoredRun,
    cell_totals,
    conditions,
    is_sound,
    row_of,
)
from specdec.saved.trace import dump_trace, parse_trace

MAX_STORED_BYTES = 2**30
"""The longest trace that is unpacked: far above any run, lest a damaged one fill the memory."""
_COMPRESSION = 3
UNDO_TIME = timedelta(days=1)
"""How long a deleted run can be brought back."""
_MAX_NAMED = 10_000
"""Runs named in one statement: databases take no more than some 32,000 values."""


class RunStore:
    """The saved runs in one database; one object may serve many threads."""

    def __init__(self, location: str | Path | None = None) -> None:
        """Open the database, creating it or bringing it up to date where needed.

        Raises:
            StoreError: it cannot be opened, or belongs to a later program.
        """
        self._database = Database(location)

    @property
    def location(self) -> str:
        """The path or URL, without a password."""
        return self._database.location

    def close(self) -> None:
        """Close every connection; the store opens new ones when it is used again."""
        self._database.close()

    # -- writing ---------------------------------------------------------------------------------

    @property
    def database(self) -> Database:
        """The database, for what else is kept in it."""
        return self._database

    def save(self, run: Run, *, cell: tuple[int, str] | None = None) -> int:
        """Write `run` and return its number.

        Args:
            run: whole or partial.
            cell: the sweep it belongs to and which of its cells it is, kept in the same breath.

        Raises:
            StoreError: the disk is full or read-only, the database does not answer, or that cell
                has been kept already.
        """
        body = zlib.compress(dump_trace(run, only_essential=True), _COMPRESSION)
        with self._database.writing() as connection:
            run_id: int = connection.execute(
                RUNS.insert().values(row_of(run)).returning(RUNS.c.id)
            ).scalar_one()
            connection.execute(TRACES.insert().values(run_id=run_id, body=body))
            if cell is not None:
                sweep_id, name = cell
                values = {"sweep_id": sweep_id, "cell": name, "run_id": run_id}
                values["totals"] = cell_totals(run)
                _erase(connection, _deleted_runs_of(sweep_id, name))  # it is measured anew
                connection.execute(CELLS.insert().values(values))
        return run_id

    def edit(
        self,
        run_id: int,
        *,
        title: str | None = None,
        note: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> None:
        """Change what the user says about a run; None leaves a part as it is.

        Args:
            run_id: its number.
            title: shown instead of the prompt; empty shows the prompt again.
            note: any text.
            tags: replace the old ones.

        Raises:
            StoreError: there is no such run any more.
            SettingsError: a word cannot be stored.
        """
        check_words(title or "", note or "", *(tags or ()))
        parts = {"title": title, "note": note, "tags": tags}
        changes = {name: part for name, part in parts.items() if part is not None}
        with self._database.writing() as connection:
            changed = connection.execute(
                RUNS.update().where(RUNS.c.id == run_id, KEPT).values(changes)
            )
            if not changed.rowcount:
                raise _gone(run_id)

    def delete(self, run_ids: Collection[int]) -> None:
        """Take runs off the list; `restore` brings them back, for a day."""
        now = datetime.now(UTC)
        with self._database.writing() as connection:
            _erase_outdated(connection, _iso(now - UNDO_TIME))
            self._mark(connection, run_ids, _iso(now))

    def restore(self, run_ids: Collection[int]) -> None:
        """Undo `delete`."""
        with self._database.writing() as connection:
            self._mark(connection, run_ids, None)

    def last_deleted(self) -> list[int]:
        """Return what the last deletion took off the list, as long as it can be brought back."""
        oldest = _iso(datetime.now(UTC) - UNDO_TIME)
        last = sa.select(sa.func.max(RUNS.c.deleted_at)).where(RUNS.c.deleted_at >= oldest)
        query = sa.select(RUNS.c.id).where(RUNS.c.deleted_at == last.scalar_subquery())
        with self._database.reading() as connection:
            return list(connection.scalars(query.order_by(RUNS.c.id)))

    def _mark(
        self, connection: sa.Connection, run_ids: Collection[int], deleted_at: str | None
    ) -> None:
        ids = list(run_ids)
        for begin in range(0, len(ids), _MAX_NAMED):
            chosen = RUNS.c.id.in_(ids[begin : begin + _MAX_NAMED])
            connection.execute(RUNS.update().where(chosen).values(deleted_at=deleted_at))

    # -- reading ---------------------------------------------------------------------------------

    def load(self, run_id: int) -> Run:
        """Return a whole run.

        Raises:
            StoreError: it was deleted meanwhile, or what is stored is damaged.
        """
        query = (
            sa.select(TRACES.c.body, RUNS.c.title, RUNS.c.note, RUNS.c.tags)
            .join_from(RUNS, TRACES, RUNS.c.id == TRACES.c.run_id)
            .where(RUNS.c.id == run_id, KEPT)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _gone(run_id)
        trace = _decompress(row.body, run_id)
        try:
            run = parse_trace(trace, name=f"Run {run_id}", max_bytes=MAX_STORED_BYTES)
            return replace(run, title=row.title, note=row.note, tags=row.tags)
        except TraceError as error:
            raise StoreError(f"{str(error).rstrip('.')}. It is damaged; delete it.") from error
        except (SettingsError, TypeError):  # a name, note or tags that are no words
            raise _damaged(run_id) from None

    def list_runs(
        self,
        where: RunFilter | None = None,
        *,
        order_by: str = "started_at",
        descending: bool = True,
        limit: int | None = None,
        offset: int = 0,
        on_damaged: Callable[[list[int]], None] | None = None,
    ) -> list[StoredRun]:
        """Return lines of the list; what is not known comes last, and what is damaged is left out.

        Args:
            where: what the list is narrowed to.
            order_by: a field of `StoredRun`.
            descending: the largest or latest first.
            limit: the most lines.
            offset: how many lines to leave out first.
            on_damaged: told the numbers of the runs that were left out, if there are any.
        """
        order = [
            one.desc().nulls_last() if descending else one.asc().nulls_last()
            for one in (RUNS.c[order_by], RUNS.c.id)
        ]
        excerpt = sa.func.substr(RUNS.c.prompt, 1, EXCERPT_CHARS)
        shown = [excerpt if name == "prompt" else RUNS.c[name] for name in COLUMNS]
        query = sa.select(*shown).where(*conditions(where or RunFilter())).order_by(*order)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit).offset(offset)).all()
        lines = [StoredRun._make(row) for row in rows if is_sound(row)]
        if on_damaged is not None and len(lines) < len(rows):
            on_damaged([row.id for row in rows if not is_sound(row)])
        return lines

    def answers(self, prompt: str, prompt_ids: Sequence[int], limit: int = 8) -> list[list[int]]:
        """Return the output of the last `limit` runs of a prompt, the latest first.

        Args:
            prompt: as the user typed it.
            prompt_ids: as the target reads it; another chat template or tokenizer is left out.
            limit: the most runs that are opened. Damaged ones are left out.

        Raises:
            StoreError: the database does not answer.
        """
        query = sa.select(RUNS.c.id).where(RUNS.c.prompt == prompt, KEPT)
        with self._database.reading() as connection:
            run_ids = connection.scalars(query.order_by(RUNS.c.id.desc()).limit(limit)).all()
        found = []
        for run_id in run_ids:
            with suppress(StoreError):
                run = self.load(run_id)
                if run.prompt_ids == tuple(prompt_ids) and run.token_ids:
                    found.append(list(run.token_ids))
        return found

    def count(self, where: RunFilter | None = None) -> int:
        """Return how many lines the list has."""
        query = (
            sa.select(sa.func.count()).select_from(RUNS).where(*conditions(where or RunFilter()))
        )
        with self._database.reading() as connection:
            return connection.scalar(query) or 0

    def choices(self) -> Choices:
        """Return the targets, drafts and tags that occur."""
        with self._database.reading() as connection:
            targets, drafts, tags = (
                connection.scalars(sa.select(column).where(KEPT).distinct()).all()
                for column in (RUNS.c.target, RUNS.c.draft, RUNS.c.tags)
            )
        words = {tag for one in tags for tag in one or ()}
        named = ([one for one in each if isinstance(one, str)] for each in (targets, drafts, words))
        return Choices(*(tuple(sorted(each)) for each in named))


def _deleted_runs_of(sweep_id: int, cell: str) -> sa.Select[tuple[int]]:
    deleted = sa.select(RUNS.c.id).where(RUNS.c.deleted_at.is_not(None))
    return sa.select(CELLS.c.run_id).where(
        CELLS.c.sweep_id == sweep_id, CELLS.c.cell == cell, CELLS.c.run_id.in_(deleted)
    )


def _erase_outdated(connection: sa.Connection, before: str) -> None:
    """Remove what was deleted before a moment, and sweeps of which nothing else is left."""
    outdated = sa.select(RUNS.c.id).where(RUNS.c.deleted_at < before)
    sweeps = sa.select(CELLS.c.sweep_id).where(CELLS.c.run_id.in_(outdated)).distinct()
    touched = connection.scalars(sweeps).all()
    _erase(connection, outdated)
    empty = SWEEPS.c.id.not_in(sa.select(CELLS.c.sweep_id)), SWEEPS.c.started_at < before
    connection.execute(SWEEPS.delete().where(SWEEPS.c.id.in_(touched), *empty))


def _erase(connection: sa.Connection, chosen: sa.Select[tuple[int]]) -> None:
    """Remove runs for good."""
    run_ids = connection.scalars(chosen).all()
    for begin in range(0, len(run_ids), _MAX_NAMED):
        some = run_ids[begin : begin + _MAX_NAMED]
        for table in (CELLS, TRACES):
            connection.execute(table.delete().where(table.c.run_id.in_(some)))
        connection.execute(RUNS.delete().where(RUNS.c.id.in_(some)))


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _gone(run_id: int) -> StoreError:
    return StoreError(f"Run {run_id} is not there any more: it was deleted meanwhile.")


def _damaged(run_id: int) -> StoreError:
    return StoreError(f"Run {run_id} is damaged and cannot be read; delete it.")


def _decompress(body: Any, run_id: int) -> bytes:
    """Unpack a trace, and not more of it than a trace may hold."""
    unpacker = zlib.decompressobj()
    is_packed = isinstance(body, bytes | memoryview)  # SQLite keeps texts and numbers here as well
    try:
        data = unpacker.decompress(body, MAX_STORED_BYTES) if is_packed else b""
    except zlib.error:
        data = b""
    if not unpacker.eof:
        raise _damaged(run_id)
    return data
