"""PostgreSQL as the store of a team: which driver, and how long anybody waits for an answer.

A server that is frozen, or behind a cable that was pulled, closes no connection: its client would
wait for ever, and so would the page. Every wait therefore ends after `ANSWER_TIMEOUT_S`, on this
side, and whoever waits may look up meanwhile (`while_waiting`) and leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import sqlalchemy as sa

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 10.0
SCHEMES = ("postgres", "postgresql")
LookUp = Callable[[float], None]
"""(seconds waited) → nothing; called some ten times a second; what it raises ends the wait."""

_look_up: ContextVar[LookUp | None] = ContextVar("look_up", default=None)


@contextmanager
def while_waiting(look_up: LookUp) -> Iterator[None]:
    """Have `look_up` called while this thread waits for a database."""
    token = _look_up.set(look_up)
    try:
        yield
    finally:
        _look_up.reset(token)


def with_driver(url: sa.URL) -> sa.URL:
    """Return `url` with the driver we know: `postgres://` and `postgresql://` mean psycopg 3."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in SCHEMES else url


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine whose connections give up in time.

    Raises:
        ImportError: psycopg is not installed.
    """
    engine = sa.create_engine(url, pool_pre_ping=True, pool_timeout=CONNECT_TIMEOUT_S)
    if engine.dialect.driver == "psycopg":
        sa.event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> Any:
    """Connect as psycopg does, but wait no longer for an answer than one should."""
    import psycopg  # optional: the default store is SQLite

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
            return super().wait(_looking_up(gen, self._look_up), *args, **options)

        def _look_up(self, waited_s: float) -> None:
            try:
                if waited_s > ANSWER_TIMEOUT_S:
                    raise psycopg.OperationalError(
                        f"it has not answered for {ANSWER_TIMEOUT_S:g} seconds"
                    )
                look_up = _look_up.get()
                if look_up is not None:
                    look_up(waited_s)
            except BaseException:
                self.pgconn.finish()  # what it was in the middle of will not be known
                raise

    options.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    options.setdefault("options", f"-c statement_timeout={ANSWER_TIMEOUT_S * 1e3:.0f}")
    return Connection.connect(*args, **options)


def _looking_up(exchange: Generator[Any, Any, Any], look_up: LookUp) -> Generator[Any, Any, Any]:
    """Pass on what psycopg waits for; it sends a false value for each turn without news."""
    began_s = time.monotonic()
    try:
        wanted = next(exchange)
        while True:
            ready = yield wanted
            if not ready:
                look_up(time.monotonic() - began_s)
            wanted = exchange.send(ready)
    except StopIteration as end:
        return end.value
