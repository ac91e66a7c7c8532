"""A sweep in the store and, where a page asks for it, in a thread of its own.

One sweep goes on in a server at a time, because two would disturb each other's times; it goes on
when the tab that began it is closed, and any tab may look at it or stop it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing

from specdec.errors import SettingsError, SpecdecError, unexpected
from specdec.lab.cluster import ClusterRunner, scheduler_address
from specdec.lab.plan import Cell, Plan
from specdec.lab.plan_file import write_plan
from specdec.lab.results import Measured
from specdec.lab.runner import Progress, SweepRunner
from specdec.pair import Load, LoadedModel, load_model
from specdec.runs.run import Run
from specdec.saved.store import RunStore
from specdec.saved.sweeps import keep_cell, measured_cells, open_sweep

log = logging.getLogger(__name__)

AwaitModel = Callable[[str, str, Callable[[], None]], LoadedModel]
"""(name, place, look up) → weights; what `look up` raises ends the wait."""


class Session:
    """A plan and its place in the store; `text` is kept with it unless it names another file."""

    def __init__(self, store: RunStore, plan: Plan, text: str) -> None:
        """Find the sweep, or begin it.

        Raises:
            StoreError: the store cannot be read or written.
        """
        self.plan = plan
        self._store = store
        complete = write_plan(plan) if plan.file else text
        self.sweep_id = open_sweep(store, plan.digest, plan.name, complete)
        self.measured = [Measured.of_cell(one) for one in measured_cells(store, self.sweep_id)]

    def runner(
        self, *, load: Load = load_model, look_up: Callable[[], None] = lambda: None
    ) -> SweepRunner:
        """Return what measures the rest: this process, or the cluster that `.env` names.

        Raises:
            SettingsError: `.env` cannot be read.
        """
        address = scheduler_address()
        if address:
            return ClusterRunner(self.plan, self.measured, self._store, address, look_up=look_up)
        return SweepRunner(self.plan, self.measured, self._keep, load=load, look_up=look_up)

    def _keep(self, cell: Cell, run: Run) -> int | None:
        return keep_cell(self._store, self.sweep_id, cell.key, run)


class _StopError(Exception):
    """Raised in the sweep's own thread to leave it: somebody asked it to stop."""


class LiveSweep:
    """A sweep that goes on beside the pages; what they read only grows, so nobody needs a lock.

    Attributes:
        plan: what is measured.
        measured: every cell so far, those of earlier sittings first.
        progress: after the last cell; None before the first.
        failures: what went wrong with single cells.
        error: what ended the sweep too early.
    """

    def __init__(
        self, store: RunStore, plan: Plan, text: str, await_model: AwaitModel, num_left: int
    ) -> None:
        """Prepare a sweep; `start` begins it.

        Args:
            store: takes each cell's run the moment it is over.
            plan: what is measured.
            text: of the plan.
            await_model: opens models.
            num_left: cells that are not measured yet, as far as the page knows.
        """
        self.plan = plan
        self.measured: list[Measured] = []
        self.progress: Progress | None = None
        self.failures: list[str] = []
        self.error: str | None = None
        self.num_left = num_left
        self._store = store
        self._text = text
        self._await_model = await_model
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="specdec sweep", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self._stopped.is_set() and self.is_alive

    def start(self) -> LiveSweep:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the sweep to end at once; every cell that is measured is kept."""
        self._stopped.set()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            self._measure()
        except _StopError:
            pass
        except SpecdecError as failure:
            self.error = str(failure)
        except Exception as failure:
            log.exception("A sweep failed.")
            self.error = unexpected(failure)

    def _measure(self) -> None:
        session = Session(self._store, self.plan, self._text)
        self.measured += session.measured
        runner = session.runner(
            load=lambda name, place: self._await_model(name, place, self._leave_if_stopped),
            look_up=self._leave_if_stopped,
        )
        with closing(runner.run()) as cells:
            for progress in cells:
                if progress.failure is not None:
                    self.failures.append(progress.failure)
                self.measured += runner.results.cells[len(self.measured) :]
                self.progress = progress

    def _leave_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise _StopError


class Desk:
    """Where a server's one sweep is begun and looked at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.current: LiveSweep | None = None

    def start(self, sweep: LiveSweep) -> None:
        """Begin a sweep.

        Raises:
            SettingsError: another one is going on.
        """
        with self._lock:
            if self.current is not None and self.current.is_alive:
                raise SettingsError("Another sweep is being measured: stop it, or wait for it.")
            self.current = sweep.start()
