"""A time limit for a whole answer.

A socket's own limit starts anew with every byte that arrives, so a server that drips its headers
or its body would hold a call for as long as it likes. Here the connection is broken off from
outside, which ends every kind of waiting for it.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class TimeLimit:
    """After `seconds`, break off whatever this thread began to read within the block."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._break_off)
        self._timer.daemon = True

    def __enter__(self) -> TimeLimit:
        _thread.limit = self
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        _thread.limit = None
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)

    def _break_off(self) -> None:
        self.is_over = True
        for connection in self._sockets:
            with suppress(OSError):  # closed in the meantime
                connection.shutdown(socket.SHUT_RDWR)


class _Thread(threading.local):
    limit: TimeLimit | None = None


_thread = _Thread()


def _watch(connection: HTTPConnection) -> None:
    if _thread.limit is not None and connection.sock is not None:
        _thread.limit.watch(connection.sock)


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        _watch(self)
        return super().getresponse()


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _watch(self)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class LimitedAdapter(HTTPAdapter):
    """Opens connections that a `TimeLimit` can break off; those through a proxy it cannot."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
