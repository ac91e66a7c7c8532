"""The steps by which the tables of the store came to be, applied in order on open.

Each step is written once and never changed: a later wish is a later step. What was applied is
recorded in the database itself, so a file of any age is brought up to date, and one from a later
program is refused before anything is read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from specdec.errors import StoreError

Migration = Callable[[sa.Connection], None]

_applied = sa.table("specdec_migrations", sa.column("number"), sa.column("name"))
_ADVISORY_LOCK = 0x5BEC_DEC0
"""One number for all SpeculatoViz stores on a PostgreSQL server; any would do."""


def m001_initial(connection: sa.Connection) -> None:
    """One row of numbers and words per run, its rounds apart."""
    tables = sa.MetaData()
    text, integer, real = sa.Text, sa.BigInteger, sa.Double
    runs = sa.Table(
        "specdec_runs",
        tables,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("started_at", text, nullable=False, index=True),
        sa.Column("deleted_at", text, index=True),
        sa.Column("title", text, nullable=False),
        sa.Column("note", text, nullable=False),
        sa.Column("tags", text, nullable=False),
        sa.Column("prompt", text, nullable=False),
        sa.Column("target", text, nullable=False),
        sa.Column("draft", text, nullable=False),
        sa.Column("backend", text, nullable=False),
        sa.Column("exactness", text, nullable=False),
        sa.Column("group_key", text, nullable=False, index=True),
        sa.Column("num_draft_tokens", integer),
        sa.Column("temperature", real),
        sa.Column("seed", integer),
        sa.Column("rtt_ms", real),
        sa.Column("finish_reason", text, nullable=False),
        sa.Column("num_tokens", integer, nullable=False),
        sa.Column("draft_acceptance_rate", real),
        sa.Column("mean_acceptance_length", real),
        sa.Column("tokens_per_s", real),
        sa.Column("speedup", real),
        sa.Column("ttft_s", real),
        sa.Column("wall_s", real, nullable=False),
        sqlite_autoincrement=True,  # the number of a deleted run never means another one
    )
    sa.Table(
        "specdec_traces",
        tables,
        sa.Column("run_id", sa.ForeignKey(runs.c.id), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    tables.create_all(connection, checkfirst=False)


def m002_sweeps(connection: sa.Connection) -> None:
    """Sweeps, and which run is which cell of which sweep."""
    tables = sa.MetaData()
    runs = sa.Table("specdec_runs", tables, sa.Column("id", sa.Integer, primary_key=True))
    sweeps = sa.Table(
        "specdec_sweeps",
        tables,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("started_at", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    cells = sa.Table(
        "specdec_cells",
        tables,
        sa.Column("sweep_id", sa.ForeignKey(sweeps.c.id), primary_key=True),
        sa.Column("cell", sa.String(1000), primary_key=True),
        sa.Column("run_id", sa.ForeignKey(runs.c.id), nullable=False, unique=True),
    )
    tables.create_all(connection, tables=[sweeps, cells], checkfirst=False)


def m003_cell_totals(connection: sa.Connection) -> None:
    """The totals of each cell's run beside it, so that a sweep is judged without its traces."""
    connection.execute(sa.text("ALTER TABLE specdec_cells ADD COLUMN totals TEXT"))


def m004_how_sure(connection: sa.Connection) -> None:
    """The interval of the speed-up, and tokens per call over the run, for the list to draw."""
    real = connection.dialect.type_compiler_instance.process(sa.Double())
    for column, kind in (("speedup_low", real), ("speedup_high", real), ("rhythm", "TEXT")):
        connection.execute(sa.text(f"ALTER TABLE specdec_runs ADD COLUMN {column} {kind}"))


MIGRATIONS: Sequence[Migration] = (m001_initial, m002_sweeps, m003_cell_totals, m004_how_sure)


def migrate(
    reader: sa.Engine, writer: sa.Engine, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the database up to date; one that is gets nothing written to it.

    Raises:
        StoreError: the database was written by a later program.
    """
    with reader.connect() as connection:
        if _num_applied(connection, migrations) == len(migrations):
            return
    with writer.begin() as connection:
        _keep_others_out(connection)
        done = _num_applied(connection, migrations)  # another process may have been faster
        if done is None:
            done = 0
            _create_record(connection)
        for number, step in enumerate(migrations[done:], start=done + 1):
            step(connection)
            connection.execute(_applied.insert().values(number=number, name=step.__name__))


def _num_applied(connection: sa.Connection, migrations: Sequence[Migration]) -> int | None:
    """Return how many steps are done, None where there is no record of any."""
    if not sa.inspect(connection).has_table(_applied.name):
        return None
    done = connection.scalar(sa.select(sa.func.count()).select_from(_applied)) or 0
    if done > len(migrations):
        raise StoreError(
            f"The saved runs are of schema {done}, and this program knows only schema "
            f"{len(migrations)}: update SpeculatoViz, or name another file in SPECDEC_DB."
        )
    return done


def _create_record(connection: sa.Connection) -> None:
    connection.execute(
        sa.text(
            f"CREATE TABLE {_applied.name} (number INTEGER PRIMARY KEY, name VARCHAR(200) NOT NULL)"
        )
    )


def _keep_others_out(connection: sa.Connection) -> None:
    """Let one process at a time migrate; a writing transaction of SQLite is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
