"""How fast the store is with 10,000 saved runs: `python -m benchmarks.store [--runs N] [--json F]`.

The runs are one real run of the engine over a hashed toy model (tests/runs.py), saved N times with
different seeds, prompts and drafts. Times are medians over `REPEATS` in this process, the fastest
beside them: the two are far apart on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from specdec.runs.compare import kpi_table, setting_differences
from specdec.saved.rows import RunFilter
from specdec.saved.store import RunStore
from tests.made_runs import tiny_run

REPEATS = 7
PAGE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.runs)
    for name, value in figures.items():
        shown = "  ".join(
            f"{one:10.2f}" for one in (value if isinstance(value, tuple) else [value])
        )
        print(f"{name:>46}  {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, num_runs: int) -> dict[str, float | tuple[float, float]]:
    usual = tiny_run(folder, num_tokens=64, k=4)
    long = tiny_run(folder, num_tokens=1024, k=4)
    with closing(RunStore(folder / "runs.db")) as store:
        ids: list[int] = []
        began_s = time.perf_counter()
        for number in range(num_runs):
            config = replace(usual.config, seed=number % 10, num_draft_tokens=number % 16)
            draft = replace(usual.draft, name=f"draft {number % 5}")
            ids.append(
                store.save(replace(usual, config=config, draft=draft, prompt=f"prompt {number}"))
            )
        saving_s = time.perf_counter() - began_s
        long_ids = [store.save(long) for _ in range(2)]
        return {
            "runs": num_runs,
            "database, MB": (folder / "runs.db").stat().st_size / 2**20,
            "save a run of 64 tokens, ms": 1e3 * saving_s / num_runs,
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
