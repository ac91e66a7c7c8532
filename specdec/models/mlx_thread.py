"""The one thread of the process on which everything touches MLX.

MLX belongs to threads in two ways. An array that is not evaluated yet (a rotary table, say) can be
evaluated only on the thread that made it. And a thread that ran a compiled function, as every
mlx-lm model does, owns a cache of Python objects whose destructor takes the interpreter's lock
when the thread ends. If the interpreter is shutting down just then, CPython ends the thread inside
the destructor and C++ aborts the process: "terminate called without an active exception"
(https://github.com/ml-explore/mlx/pull/4110). A finished worker of a web server is enough.

So there is one thread, which ends before the interpreter shuts down and with `mx.clear_streams()`
as its last job; that empties the cache, and the destructor has nothing left to take the lock for.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class MlxThread:
    """Run jobs one after the other, for callers on any thread."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlx", daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], Result]) -> Result:
        """Return what `job` returns, or raise what it raises."""
        future: Future[Result] = Future()
        self._jobs.put((future, job))
        return future.result()

    def end_at_exit(self, last_job: Callable[[], Any]) -> None:
        """Run `last_job` and end at exit, before every hook that is registered already."""
        atexit.register(self._end, last_job)

    def _end(self, last_job: Callable[[], Any]) -> None:
        self._jobs.put((Future(), last_job))
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            _do(*entry)
            del entry  # or it would hold the last result until the next job


def _do(future: Future[Any], job: Callable[[], Any]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # belongs to the caller, whatever it is
        future.set_exception(error)


MLX_THREAD = MlxThread()
