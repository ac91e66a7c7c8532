"""The one thread of the process on which everything touches MLX.

MLX belongs to threads in two ways. An array that is not evaluated yet (a rotary table, say) can be
evaluated only on the thread that made it. And a thread that ran a compiled function, as every
mlx-lm model does, owns a cache of Python functions whose destructor takes the interpreter's lock
when the thread ends. If the interpreter is shutting down at that moment, CPython ends the thread
inside the destructor and C++ aborts the process: "terminate called without an active exception"
(https://github.com/ml-explore/mlx/pull/4110). A finished worker of a web server is enough.

So there is one thread, and it never ends: at exit it is left waiting, and with it its cache.
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
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._working = threading.Lock()
        threading.Thread(target=self._work, name="mlx", daemon=True).start()

    def run(self, job: Callable[[], Result]) -> Result:
        """Return what `job` returns, or raise what it raises."""
        future: Future[Result] = Future()
        self._jobs.put((future, job))
        return future.result()

    def halt_before_exit(self) -> None:
        """At exit let the job at work finish and begin no other, before all hooks set so far."""
        atexit.unregister(self._halt)
        atexit.register(self._halt)

    def _halt(self) -> None:
        self._working.acquire()  # never released

    def _work(self) -> None:
        while True:
            self._do(*self._jobs.get())

    def _do(self, future: Future[Any], job: Callable[[], Any]) -> None:
        with self._working:
            try:
                future.set_result(job())
            except BaseException as error:  # belongs to the caller, whatever it is
                future.set_exception(error)


MLX_THREAD = MlxThread()
