"""A sweep on the workers of a Dask cluster, with results in a store that all of them share.

What travels is the plan and the names of cells; a worker loads the models itself and keeps each run
in the store that its own `SPECDEC_DB` names, which must be the one this process uses. A block, all
arms of one prompt under one condition, stays on one worker, so that arms are compared on one
machine; a worker measures one cell at a time, whatever its number of threads. If a worker dies, its
block begins again elsewhere, without the cells that are kept already. Dask does the rest: this is
no scheduler.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import Any

from specdec.errors import SettingsError, StoreError
from specdec.lab.plan import Cell, Plan
from specdec.lab.plan_file import parse_plan, write_plan
from specdec.lab.results import Measured
from specdec.lab.runner import Progress, SweepRunner
from specdec.runs.run import Run
from specdec.saved.store import RunStore
from specdec.saved.sweeps import find_sweep, keep_cell, measured_cells
from specdec.settings import variables

SCHEDULER = "SPECDEC_SCHEDULER"
_POLL_S = 0.2
_BLOCKS_PER_WORKER = 2
"""So many are sent ahead; the rest waits here, because a condition may be decided meanwhile."""
_ONE_AT_A_TIME = threading.Lock()

Failures = dict[str, str]
"""By the key of a cell, why it could not be measured."""


def scheduler_address() -> str:
    """Return the address of the cluster that sweeps run on, nothing where they run here.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    return variables().get(SCHEDULER, "").strip()


class ClusterRunner(SweepRunner):
    """A sweep whose blocks are measured by the workers of a cluster."""

    def __init__(
        self,
        plan: Plan,
        measured: Iterable[Measured],
        store: RunStore,
        address: str,
        *,
        look_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a sweep.

        Args:
            plan: what is compared.
            measured: cells of earlier sittings.
            store: this sweep is begun in; the workers write to the same one.
            address: of the cluster's scheduler.
            look_up: called all the time; what it raises ends the sweep. Workers end their block.
        """
        super().__init__(plan, measured, _keep_nothing, look_up=look_up)
        self._store = store
        self._address = address
        self._sweep_id = _sweep_of(store, plan.digest)
        self._back = threading.Event()

    def run(self) -> Generator[Progress, None, None]:
        """Yield after each cell that came back.

        Raises:
            SettingsError: the cluster cannot be reached, or `distributed` is not installed.
            SpecdecError: a worker cannot work at all.
        """
        dask = _distributed()
        try:
            client = dask.Client(self._address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{SCHEDULER} names no cluster that answers ({self._address}): {error}."
            ) from None
        with client:
            yield from self._follow(client)

    def _follow(self, client: Any) -> Generator[Progress, None, None]:
        waiting, text = self._left(), write_plan(self.plan)
        sent: dict[Any, list[Cell]] = {}
        began_s, done = self._clock(), self.num_done
        try:
            while waiting or sent:
                room = max(0, _BLOCKS_PER_WORKER * max(1, len(client.ncores())) - len(sent))
                if self._is_out_of_time(began_s):
                    waiting = []
                for block in waiting[:room]:
                    keys = [cell.key for cell in block]
                    future = client.submit(measure_block, text, keys, pure=False)
                    future.add_done_callback(lambda _: self._back.set())
                    sent[future] = block
                waiting = waiting[room:]
                for future in self._finished(sent):
                    block, failures = sent.pop(future), future.result()
                    self._take(block)
                    ahead = [cell for one in (*sent.values(), *waiting) for cell in one]
                    for cell in block:
                        done += 1
                        yield self._progress(cell, done, ahead, failures, client)
                    waiting = self._without_decided(waiting)
        finally:
            client.cancel(list(sent))

    def _finished(self, sent: dict[Any, list[Cell]]) -> list[Any]:
        """Return the blocks that are back, after a moment if there are none."""
        self._look_up()
        finished = [future for future in sent if future.done()]
        if not finished:
            self._back.wait(_POLL_S)
            self._back.clear()
        return finished

    def _take(self, block: list[Cell]) -> None:
        """Read what the workers kept."""
        keys = {cell.key: cell for cell in block}
        for one in measured_cells(self._store, self._sweep_id):
            if one.key in keys and one.key not in self.results.keys:
                measured = Measured.of_cell(one)
                self.results.add(measured)
                self._timing.add_earlier(keys[one.key], measured.seconds)

    def _progress(
        self, cell: Cell, done: int, ahead: list[Cell], failures: Failures, client: Any
    ) -> Progress:
        left_s = self._timing.estimate(ahead)
        workers = max(1, len(client.ncores()))
        failure = failures.get(cell.key)
        return Progress(
            done,
            done + len(ahead),
            None if left_s is None else left_s / workers,
            cell,
            failure,
        )


def _keep_nothing(cell: Cell, run: Run) -> None:
    raise AssertionError("the workers keep their runs themselves")


def _distributed() -> Any:
    """Return the library, which nobody needs who does not ask for a cluster.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise SettingsError(
            f"{SCHEDULER} is set, and distributed is not installed: pip install distributed."
        ) from None


def _sweep_of(store: RunStore, digest: str) -> int:
    found = find_sweep(store, digest)
    if found is None:
        raise StoreError(
            f"The store {store.location} does not hold this sweep: every worker needs the same "
            "SPECDEC_DB, a database that all of them reach."
        )
    return found


# -- on a worker ---------------------------------------------------------------------------------


def measure_block(text: str, keys: list[str]) -> Failures:
    """Measure the cells of a block that are not kept yet, one after the other.

    Raises:
        StoreError: the worker's store is not that of the sweep, or cannot be written.
    """
    with _ONE_AT_A_TIME:
        work = _work(text)
        return work.measure(keys)


class _Work:
    """A sweep as one worker knows it; models stay open from block to block."""

    def __init__(self, plan: Plan) -> None:
        self._store = RunStore()
        self._sweep_id = _sweep_of(self._store, plan.digest)
        self._cells = {cell.key: cell for cell in plan.cells}
        self._runner = SweepRunner(plan, (), self._keep)

    def measure(self, keys: list[str]) -> Failures:
        kept = {one.key for one in measured_cells(self._store, self._sweep_id)}
        failures = {}
        for key in keys:
            if key not in kept:
                failure = self._runner.measure(self._cells[key])
                if failure is not None:
                    failures[key] = failure
        return failures

    def _keep(self, cell: Cell, run: Run) -> int | None:
        return keep_cell(self._store, self._sweep_id, cell.key, run)


@lru_cache(maxsize=1)
def _work(text: str) -> _Work:
    return _Work(parse_plan(text))
