"""Sweeps in the store: the plan of each, and the run of every cell that has been measured.

A cell is kept with its run in one transaction, so a sweep that is killed anywhere goes on where it
was: nothing is measured twice, and nothing that was measured is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

import sqlalchemy as sa

from specdec.errors import StoreError
from specdec.runs.run import Run
from specdec.saved.rows import CELLS, KEPT, RUNS, SWEEPS
from specdec.saved.store import RunStore

_NUM_USUAL = 30


class Sweep(NamedTuple):
    """One sweep; `num_cells` have been measured so far."""

    id: int
    digest: str
    name: str
    plan: str
    started_at: str
    num_cells: int


class MeasuredCell(NamedTuple):
    """What a cell of a sweep came to.

    Attributes:
        key: which cell, as `specdec.lab.plan.Cell.key` names it.
        run_id: its run.
        num_tokens: of the run.
        tokens_per_s: likewise.
        draft_acceptance_rate: likewise.
        totals: `rows.cell_totals` of it; None in stores of before there were any.
    """

    key: str
    run_id: int
    num_tokens: int
    tokens_per_s: float | None
    draft_acceptance_rate: float | None
    totals: str | None


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
    of_run = (RUNS.c[name] for name in ("num_tokens", "tokens_per_s", "draft_acceptance_rate"))
    query = (
        sa.select(CELLS.c.cell, RUNS.c.id, *of_run, CELLS.c.totals)
        .join_from(CELLS, RUNS, CELLS.c.run_id == RUNS.c.id)
        .where(CELLS.c.sweep_id == sweep_id, KEPT)
        .order_by(RUNS.c.id)
    )
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
    return [MeasuredCell._make(row) for row in rows if _is_sound(row)]


def keep_cell(store: RunStore, sweep_id: int, cell: str, run: Run) -> int | None:
    """Save the run of a cell and return its number; None where somebody was faster.

    Two processes may measure one sweep, and a worker that was thought dead may not be.

    Raises:
        StoreError: the store cannot be written.
    """
    try:
        return store.save(run, cell=(sweep_id, cell))
    except StoreError:
        query = sa.select(CELLS.c.run_id).where(CELLS.c.sweep_id == sweep_id, CELLS.c.cell == cell)
        with store.database.reading() as connection:
            if connection.scalar(query) is None:
                raise
        return None


def saved_prompts(store: RunStore, limit: int) -> list[str]:
    """Return the prompts of the latest runs that are no cells of sweeps, none twice.

    Raises:
        StoreError: the store cannot be read.
    """
    latest = sa.func.max(RUNS.c.id)
    query = (
        sa.select(RUNS.c.prompt)
        .where(KEPT, RUNS.c.prompt != "", RUNS.c.id.not_in(sa.select(CELLS.c.run_id)))
        .group_by(RUNS.c.prompt)
        .order_by(latest.desc())
        .limit(limit)
    )
    with store.database.reading() as connection:
        return [one for one in connection.scalars(query) if isinstance(one, str) and one.strip()]


def usual_tokens_per_s(store: RunStore, target: str) -> float | None:
    """Return the median speed of this target's last runs, None where it has none.

    Raises:
        StoreError: the store cannot be read.
    """
    query = (
        sa.select(RUNS.c.tokens_per_s)
        .where(RUNS.c.target == target, RUNS.c.tokens_per_s > 0, RUNS.c.rtt_ms == 0, KEPT)
        .order_by(RUNS.c.id.desc())
        .limit(_NUM_USUAL)
    )
    with store.database.reading() as connection:
        speeds = [one for one in connection.scalars(query) if isinstance(one, float)]
    return median(speeds) if speeds else None


def _is_sound(row: Sequence[Any]) -> bool:
    """Say whether a row is a `MeasuredCell`; another program may have written it."""
    key, _, tokens, speed, rate, totals = row
    numbers = all(one is None or isinstance(one, int | float) for one in (speed, rate))
    texts = isinstance(key, str) and (totals is None or isinstance(totals, str))
    return texts and numbers and isinstance(tokens, int)
