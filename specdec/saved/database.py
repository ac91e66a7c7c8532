"""The connection to a database of saved runs: SQLite in a file, or whatever an address names.

SQLite is in WAL mode, so readers never wait; a writing transaction takes the lock at its beginning
and waits for its turn, because one that asks for it half-way may be refused at once. What databases
and drivers complain about comes out as `StoreError`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
import sqlalchemy as sa

from specdec.errors import StoreError
from specdec.saved import postgres
from specdec.saved.migrations import migrate
from specdec.settings import variables

LOCK_TIMEOUT_S = 30.0
HIDDEN = "***"
MIN_SECRET_CHARS = 3
"""Less is no secret, and to hide it would garble every sentence."""


def default_location() -> str:
    """Return `SPECDEC_DB` (a path or SQLAlchemy URL), else a file in the user's data folder.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    named = variables().get("SPECDEC_DB", "").strip()
    return named or str(Path(platformdirs.user_data_dir("specdec")) / "runs.db")


class Database:
    """One database, its tables up to date; safe in several threads and processes at once."""

    def __init__(self, location: str | Path | None = None) -> None:
        """Open the database, creating it or bringing it up to date where needed.

        Raises:
            StoreError: it cannot be opened, or belongs to a later program.
            SettingsError: no location is given, and `.env` cannot be read.
        """
        url = _url(str(location or default_location()))
        self.location = _shown(url)
        self._secrets = _secrets(url)
        with self._explaining("opened"), ExitStack() as on_failure:
            self._reader = _make_engine(url)
            on_failure.callback(self.close)
            self._writer = self._reader.execution_options(specdec_writes=True)
            migrate(self._reader, self._writer)
            on_failure.pop_all()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Lend a connection that sees one state of the database."""
        with self._explaining("read"), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Lend a connection whose changes are kept together, or not at all."""
        with self._explaining("written"), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _explaining(self, action: str) -> Iterator[None]:
        """Turn whatever a database or driver raises into one sentence, without a password."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
            for secret in self._secrets:
                reason = reason.replace(secret, HIDDEN)
            if isinstance(error, ImportError) and "psycopg" in reason:
                reason += ': pip install "psycopg[binary]"'
            raise StoreError(
                f"The saved runs in {self.location} cannot be {action}: {reason}. "
                "Put that right, or name another place in SPECDEC_DB."
            ) from error


# -- addresses -----------------------------------------------------------------------------------


def _url(location: str) -> sa.URL:
    """Return where a path or an address leads.

    Raises:
        StoreError: it is an address that cannot be understood. Nothing of it is repeated: what
            stands where in it, a password included, is not known.
    """
    if "://" not in location:
        return sa.URL.create("sqlite", database=os.path.expanduser(location))
    try:
        url = sa.make_url(location)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or "@" in (url.host or ""):
        raise StoreError(
            "SPECDEC_DB is no address of a database: write it as "
            "postgresql://user:password@host:5432/database, and any @ : / or % in the password as "
            "%40 %3A %2F %25."
        )
    return postgres.with_driver(url)


def _secret_options(url: sa.URL) -> list[str]:
    return [name for name in url.query if "pass" in name.lower() or "secret" in name.lower()]


def _secrets(url: sa.URL) -> list[str]:
    """Return what must not be shown of an address, longest first."""
    found = [url.password or ""]
    for name in _secret_options(url):
        value = url.query[name]
        found += [value] if isinstance(value, str) else value
    return sorted((one for one in found if len(one) >= MIN_SECRET_CHARS), key=len, reverse=True)


def _shown(url: sa.URL) -> str:
    """Return the path, or the address without a password wherever it stands."""
    if url.get_backend_name() == "sqlite" and not url.query:
        return url.database or ":memory:"
    return url.difference_update_query(_secret_options(url)).render_as_string(hide_password=True)


def _make_engine(url: sa.URL) -> sa.Engine:
    backend = url.get_backend_name()
    if backend == "postgresql":
        return postgres.make_engine(url)
    if backend != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    if url.database and not url.query:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set a new connection up; a file that cannot be written to stays in the mode it is in."""
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says so
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("specdec_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
