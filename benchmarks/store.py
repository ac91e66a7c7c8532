"""How fast the store is with 10,000 saved runs: `python -m benchmarks.store [--runs N] [--json F]`.

The runs are one real run of the engine over a hashed toy model (tests/made_runs.py) with different
seeds, prompts and drafts. The first 300 are saved one by one, which is timed; the others are
written as rows, for a store of 100,000 in minutes. `--postgres` starts a PostgreSQL server for it.
Times are medians over `REPEATS` in this process, the fastest beside them: the two are far apart on
a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from specdec.runs.compare import kpi_table, setting_differences
from specdec.runs.run import Run
from specdec.saved.rows import RUNS, TRACES, RunFilter, row_of
from specdec.saved.store import RunStore
from specdec.saved.trace import dump_trace
from tests.made_runs import tiny_run
from tests.saved import postgres

REPEATS = 7
PAGE = 50
NUM_SAVED = 300
_BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--postgres", action="store_true")
    arguments = parser.parse_args()
    server = postgres.serving() if arguments.postgres else nullcontext()
    with tempfile.TemporaryDirectory() as folder, server as started:
        location = started.url if started else Path(folder) / "runs.db"
        figures = measure(Path(folder), arguments.runs, location)
    for name, value in figures.items():
        shown = "  ".join(
            f"{one:10.2f}" for one in (value if isinstance(value, tuple) else [value])
        )
        print(f"{name:>46}  {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(
    folder: Path, num_runs: int, location: Path | str
) -> dict[str, float | tuple[float, float]]:
    usual = tiny_run(folder, num_tokens=64, k=4)
    long = tiny_run(folder, num_tokens=1024, k=4)
    with closing(RunStore(location)) as store:
        num_saved = min(num_runs, NUM_SAVED)
        began_s = time.perf_counter()
        ids = [store.save(run) for run in varied(usual, range(num_saved))]
        saving_s = time.perf_counter() - began_s
        fill(store, usual, range(num_saved, num_runs))
        long_ids = [store.save(long) for _ in range(2)]
        return {
            "runs": num_runs,
            "save a run of 64 tokens, ms": 1e3 * saving_s / num_saved,
            "list all, ms": timed_ms(store.list_runs),
            f"list one page of {PAGE}, ms": timed_ms(lambda: store.list_runs(limit=PAGE)),
            "sort all by speed, ms": timed_ms(lambda: store.list_runs(order_by="tokens_per_s")),
            "search in all prompts, ms": timed_ms(
                lambda: store.list_runs(RunFilter(search="PROMPT 99"))
            ),
            "count and filter choices, ms": timed_ms(lambda: (store.count(), store.choices())),
            "open a run of 64 tokens, ms": timed_ms(lambda: store.load(ids[0])),
            "open a run of 1,024 tokens, ms": timed_ms(lambda: store.load(long_ids[0])),
            "open and compare 4 runs of 64 tokens, ms": timed_ms(lambda: compare(store, ids[:4])),
            "open and compare 2 runs of 1,024 tokens, ms": timed_ms(
                lambda: compare(store, long_ids)
            ),
            "save a run of 1,024 tokens, ms": timed_ms(lambda: store.save(long)),
        }


def varied(usual: Run, numbers: range) -> Iterator[Run]:
    """Yield the run as if it had been made with other settings each time."""
    for number in numbers:
        config = replace(usual.config, seed=number % 10, num_draft_tokens=number % 16)
        draft = replace(usual.draft, name=f"draft {number % 5}")
        yield replace(usual, config=config, draft=draft, prompt=f"prompt {number}")


def fill(store: RunStore, usual: Run, numbers: range) -> None:
    """Write rows as `save` would, many at a time; all have the usual run's trace."""
    body = zlib.compress(dump_trace(usual, only_essential=True), 3)
    rows = [row_of(run) for run in varied(usual, range(_BATCH))]
    for start in range(numbers.start, numbers.stop, _BATCH):
        batch = [
            row | {"prompt": f"prompt {start + number}"}
            for number, row in enumerate(rows[: numbers.stop - start])
        ]
        with store.database.writing() as connection:
            insert = RUNS.insert().returning(RUNS.c.id)
            ids = connection.execute(insert, batch).scalars()
            connection.execute(TRACES.insert(), [{"run_id": one, "body": body} for one in ids])


def compare(store: RunStore, run_ids: list[int]) -> None:
    runs = [store.load(run_id) for run_id in run_ids]
    kpi_table(runs)
    setting_differences(runs)


def timed_ms(action) -> tuple[float, float]:
    """Return the median and the least time of an action."""
    times = []
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - began_s)
    return 1e3 * statistics.median(times), 1e3 * min(times)


if __name__ == "__main__":
    main()
