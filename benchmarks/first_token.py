"""From the command to the first token: `python -m specdec generate "Hi" --max-tokens 1`.

    python -m benchmarks.first_token [--repeats 7] [--against FOLDER] [-- MORE OPTIONS]

Everything is in the caches by then: weights, kernels, digests. `--against` names another checkout
(an older one), whose starts are interleaved with ours. Prints one JSON document: medians of the
seconds until the text appears and until the command ends, of the processor's seconds, and of the
most memory it held. What other processes take from the cores is in the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from specdec.runs.machine import describe_environment

COMMAND = (sys.executable, "-m", "specdec", "generate", "Hi", "--max-tokens", "1")
HERE = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--against", type=Path, help="another checkout to be measured beside")
    parser.add_argument("options", nargs="*", help="passed on to the command")
    asked = parser.parse_args()
    checkouts = {"here": HERE} | ({"against": asked.against} if asked.against else {})
    print(json.dumps(measure(checkouts, asked.repeats, asked.options), indent=1))


def measure(checkouts: dict[str, Path], repeats: int, options: list[str]) -> dict[str, object]:
    """Start each checkout `repeats` times in turn, after one start that fills its caches."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(repeats + 1):
        for name, folder in checkouts.items():
            rows[name].append(start(folder, options))
    medians = {
        name: {key: round(statistics.median(row[key] for row in of[1:]), 3) for key in of[0]}
        for name, of in rows.items()
    }
    return {"median": medians, "environment": describe_environment()}


def start(folder: Path, options: list[str]) -> dict[str, float]:
    """Run the command in a checkout and return what it took.

    Raises:
        CalledProcessError: it failed.
    """
    began_s = time.perf_counter()
    with subprocess.Popen([*COMMAND, *options], cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        text_s = time.perf_counter() - began_s
        process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, COMMAND)
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`, in bytes
    return {
        "text_s": text_s,
        "end_s": time.perf_counter() - began_s,
        "processor_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss * unit / 1e6,
    }


if __name__ == "__main__":
    main()
