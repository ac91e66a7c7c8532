"""Sweeps in the store: the plan of each, and the run of every cell that has been measured.

A cell is kept with its run in one transaction, so a sweep that is killed anywhere goes on where it
was: nothing is measured twice, and nothing that was measured is lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from specdec.saved.rows import CELLS, COLUMNS, KEPT, RUNS, SWEEPS, StoredRun, is_sound
from specdec.saved.store import RunStore


class Sweep(NamedTuple):
    """One sweep; `num_cells` have been measured so far."""

    id: int
    digest: str
    name: str
    plan: str
    started_at: str
    num_cells: int


class MeasuredCell(NamedTuple):
    """What a cell of a sweep came to; `key` is `specdec.lab.plan.Cell.key`."""

    key: str
    run: StoredRun


def open_sweep(store: RunStore, digest: str, name: str, plan: str) -> int:
    """Return the number of the sweep with this digest, which is begun if there is none.

    Raises:
        StoreError: the store cannot be written.
    """
    with store.database.writing() as connection:
        known = connection.scalar(sa.select(SWEEPS.c.id).where(SWEEPS.c.digest == digest))
        if known is not None:
            return int(known)
        values = {
            "digest": digest,
            "name": name,
            "plan": plan,
            "started_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        made: int = connection.execute(
            SWEEPS.insert().values(values).returning(SWEEPS.c.id)
        ).scalar_one()
        return made


def list_sweeps(store: RunStore) -> list[Sweep]:
    """Return every sweep, the latest first.

    Raises:
        StoreError: the store cannot be read.
    """
    counts = (
        sa.select(sa.func.count())
        .select_from(CELLS)
        .where(CELLS.c.sweep_id == SWEEPS.c.id)
        .scalar_subquery()
    )
    columns = [SWEEPS.c[name] for name in Sweep._fields[:-1]]
    query = sa.select(*columns, counts).order_by(SWEEPS.c.started_at.desc(), SWEEPS.c.id.desc())
    with store.database.reading() as connection:
        return [Sweep._make(row) for row in connection.execute(query).all()]


def measured_cells(store: RunStore, sweep_id: int) -> list[MeasuredCell]:
    """Return what has been measured; no trace is opened, so ten thousand cells take a moment.

    Raises:
        StoreError: the store cannot be read.
    """
    query = (
        sa.select(CELLS.c.cell, *(RUNS.c[name] for name in COLUMNS))
        .join_from(CELLS, RUNS, CELLS.c.run_id == RUNS.c.id)
        .where(CELLS.c.sweep_id == sweep_id, KEPT)
        .order_by(RUNS.c.id)
    )
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
    return [
        MeasuredCell(row[0], StoredRun._make(row[1:]))
        for row in rows
        if isinstance(row[0], str) and is_sound(row[1:])
    ]
