"""What other processes do to a store in tests; imported once by the fork server."""

from __future__ import annotations

import resource
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from specdec.errors import StoreError
from specdec.saved.store import RunStore
from specdec.saved.trace import read_trace


def save_many(location: str, trace: Path, num_runs: int) -> None:
    """Save the run in `trace` again and again."""
    run = read_trace(trace)
    store = RunStore(location)
    for _ in range(num_runs):
        store.save(run)
    store.close()


def save_until_killed(location: str, trace: Path, finished: Connection) -> None:
    """Save for ever, and send the number of each run when it is saved."""
    run = read_trace(trace)
    store = RunStore(location)
    while True:
        finished.send(store.save(run))


def save_onto_a_full_disk(location: str, trace: Path, max_file_bytes: int, report: Path) -> None:
    """Save until files may not grow any more, then write how many were saved, and the error."""
    run = read_trace(trace)
    store = RunStore(location)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    for num_saved in count():
        try:
            store.save(run)
        except StoreError as error:
            report.write_text(f"{num_saved}\n{error}\n{len(store.list_runs())}")
            return
