"""A time limit for a whole answer.

A socket's own limit starts anew with every byte that arrives, so a server that drips its headers
or its body would hold a call for as long as it likes, and so would a proxy or a handshake. Here the
connection is broken off from outside, which ends every kind of waiting for it.
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
        for handle in self._sockets:
            handle.close()

    def watch(self, connection: socket.socket) -> None:
        """Break `connection` off in time, under whatever layer it comes to lie."""
        with suppress(OSError):
            handle = socket.fromfd(connection.fileno(), connection.family, connection.type)
            self._sockets.append(handle)
        if self.is_over:
            self._break_off()

    def _break_off(self) -> None:
        self.is_over = True
        for handle in list(self._sockets):
            with suppress(OSError):  # closed in the meantime
                handle.shutdown(socket.SHUT_RDWR)


class _Thread(threading.local):
    limit: TimeLimit | None = None


_thread = _Thread()


def _watched(connection: socket.socket) -> socket.socket:
    if _thread.limit is not None:
        _thread.limit.watch(connection)
    return connection


class _Watched(HTTPConnection):
    """Is watched from its first moment, tunnel and handshake included, and when it is reused."""

    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn())

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            _watched(self.sock)
        super().request(*args, **options)


class _SecureWatched(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureWatched


_POOLS = {"http": _Pool, "https": _SecurePool}


class LimitedAdapter(HTTPAdapter):
    """Opens connections that a `TimeLimit` can break off; those through SOCKS it cannot."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not str(proxy).lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager
