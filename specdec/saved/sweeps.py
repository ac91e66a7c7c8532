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


_ANY = sa.select(CELLS.c.run_id).where(CELLS.c.sweep_id == SWEEPS.c.id)
_KEPT_CELLS = _ANY.join_from(CELLS, RUNS, CELLS.c.run_id == RUNS.c.id).where(KEPT)
_IS_DELETED = sa.and_(_ANY.exists(), sa.not_(_KEPT_CELLS.exists()))


class Sweep(NamedTuple):
    """One sweep; `num_cells` have been measured so far, those that were deleted aside."""

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

    One that was deleted begins anew under its old number.

    Raises:
        StoreError: the store cannot be written.
    """
    values = {
        "name": name,
        "plan": plan,
        "started_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    of_digest = SWEEPS.c.digest == digest
    with store.database.writing() as connection:
        known = connection.execute(sa.select(SWEEPS.c.id, _IS_DELETED).where(of_digest)).first()
        if known is None:
            insert = SWEEPS.insert().values(values | {"digest": digest}).returning(SWEEPS.c.id)
            return int(connection.execute(insert).scalar_one())
        if known[1]:
            connection.execute(SWEEPS.update().where(of_digest).values(values))
        return int(known[0])


def find_sweep(store: RunStore, digest: str) -> int | None:
    """Return the number of the sweep with this digest, None where it was never begun.

    Raises:
        StoreError: the store cannot be read.
    """
    with store.database.reading() as connection:
        return connection.scalar(sa.select(SWEEPS.c.id).where(SWEEPS.c.digest == digest))


def list_sweeps(store: RunStore) -> list[Sweep]:
    """Return every sweep, the latest first; one whose runs are all deleted is as good as gone.

    Raises:
        StoreError: the store cannot be read.
    """
    columns = [SWEEPS.c[name] for name in Sweep._fields[:-1]]
    num_kept = _KEPT_CELLS.with_only_columns(sa.func.count()).scalar_subquery()
    query = (
        sa.select(*columns, num_kept)
        .where(sa.not_(_IS_DELETED))
        .order_by(SWEEPS.c.started_at.desc(), SWEEPS.c.id.desc())
    )
    with store.database.reading() as connection:
        return [Sweep._make(row) for row in connection.execute(query).all()]


def delete_sweep(store: RunStore, sweep_id: int) -> None:
    """Delete the runs of a sweep, and it with them; `RunStore.restore` brings both back.

    One without runs is removed for good.

    Raises:
        StoreError: the store cannot be written.
    """
    of_sweep = CELLS.c.sweep_id == sweep_id
    runs = sa.select(RUNS.c.id).join_from(CELLS, RUNS, CELLS.c.run_id == RUNS.c.id)
    with store.database.reading() as connection:
        run_ids = connection.scalars(runs.where(of_sweep, KEPT)).all()
    if run_ids:
        store.delete(run_ids)
        return
    with store.database.writing() as connection:
        is_empty = SWEEPS.c.id.not_in(sa.select(CELLS.c.sweep_id))
        connection.execute(SWEEPS.delete().where(SWEEPS.c.id == sweep_id, is_empty))


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
