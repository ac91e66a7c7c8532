"""A sweep of many cells in a store, written without running any."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from specdec.lab.plan import Plan
from specdec.runs.run import Run
from specdec.saved.rows import CELLS, RUNS, cell_totals, row_of
from specdec.saved.store import RunStore
from specdec.saved.sweeps import open_sweep


def store_sweep(store: RunStore, plan: Plan, run: Run) -> int:
    """Keep a sweep whose every cell came to the totals of `run`, at a speed of its own."""
    sweep = open_sweep(store, plan.digest, plan.name, "")
    row, cells = row_of(run), plan.cells
    with store.database.writing() as connection:
        first = (connection.scalar(sa.select(sa.func.max(RUNS.c.id))) or 0) + 1
        rows = [row | {"id": first + n, "tokens_per_s": 10 + n % 7} for n in range(len(cells))]
        connection.execute(RUNS.insert(), rows)
        connection.execute(
            CELLS.insert(),
            [_cell(sweep, row["id"], cell.key, run) for row, cell in zip(rows, cells, strict=True)],
        )
    return sweep


def _cell(sweep: int, run_id: int, key: str, run: Run) -> dict[str, object]:
    own = replace(run, summary=replace(run.summary, draft_s=run_id * 1e-3))
    return {"sweep_id": sweep, "run_id": run_id, "cell": key, "totals": cell_totals(own)}
