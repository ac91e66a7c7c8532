"""Whether one configuration gives one speed-up, on a quiet machine and on a busy one.

    python -m benchmarks.steadiness [--repeats 10] [--tokens 96] [--rtt-ms 0]

The same run is made ten times as the machine is, and ten times beside a process that keeps one core
busy, in turns. Each run's speed-up has an interval; the bar is that in at least nine of ten pairs
(one run of each kind) the intervals cover each other, or the page would have called one of the two
disturbed. It also tells how many say it, and how wide the intervals are: one that covers everything
by being wide would say nothing. The exit status is 1 if the bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache

from specdec import RunConfig
from specdec.pair import load_model
from specdec.perform import Performance
from specdec.runs.machine import describe_environment
from specdec.runs.speedup import Speedup, interval_words, speedup_of

PROMPT = "Write a Python function that counts how often each word occurs in a text."
BAR = 0.9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    options = parser.parse_args()

    load = cache(load_model)
    config = RunConfig(temperature=0.0, max_tokens=options.tokens, rtt_ms=options.rtt_ms)

    def measure() -> Speedup:
        performance = Performance(config, PROMPT, load=load)
        for _ in performance.frames():
            pass
        run = performance.run()
        found = None if run is None else speedup_of(run)
        assert found is not None, "too short a run"
        return found

    measure()  # the first run of a process compiles and warms up
    pairs = []
    for number in range(options.repeats):
        alone = measure()
        with busy_core():
            beside = measure()
        pairs.append((alone, beside))
        print(f"{number + 1}: alone {told(alone)}; beside {told(beside)}", file=sys.stderr)
    held = [cover(*pair) or any(one.disturbance for one in pair) for pair in pairs]
    print(json.dumps(report(pairs) | {"held": sum(held), "pairs": len(held)}, indent=1))
    return 0 if sum(held) >= BAR * len(held) else 1


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy from outside this process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def cover(one: Speedup, other: Speedup) -> bool:
    """Say whether the intervals of two speed-ups have a value in common."""
    ours, theirs = one.over_link, other.over_link
    assert ours.low is not None
    assert ours.high is not None
    assert theirs.low is not None
    assert theirs.high is not None
    return ours.low <= theirs.high and theirs.low <= ours.high


def told(one: Speedup) -> str:
    return interval_words(one.over_link) + (" (disturbed)" if one.disturbance else "")


def report(pairs: list[tuple[Speedup, Speedup]]) -> dict[str, object]:
    """Return what there is to know besides the bar."""
    kinds = {"alone": [a for a, _ in pairs], "beside": [b for _, b in pairs]}
    return {
        "covering": sum(cover(*pair) for pair in pairs),
        **{
            kind: {
                "called_disturbed": sum(bool(one.disturbance) for one in found),
                "median_width": round(statistics.median(map(width, found)), 2),
                "speedups": [asdict(one.over_link) for one in found],
            }
            for kind, found in kinds.items()
        },
        "environment": describe_environment(),
    }


def width(one: Speedup) -> float:
    """Return an interval's upper end over its lower one."""
    found = one.over_link
    assert found.low is not None
    assert found.high is not None
    return found.high / found.low


if __name__ == "__main__":
    sys.exit(main())
