"""What a forward of n tokens costs against a forward of one, measured interleaved in one run.

    python -m benchmarks.forward_cost [--backend portable|mlx] [--repeats 20] [--context 64]

Prints one JSON document: median milliseconds and ratios, with the hardware they belong to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from specdec.pair import load_model
from specdec.runs.machine import describe_environment
from specdec.settings import BACKENDS, DEFAULT_MODEL

SIZES = (1, 2, 3, 4, 5, 8, 9, 17)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--context", type=int, default=64, help="tokens already in the cache")
    options = parser.parse_args()

    model = load_model(options.model, options.backend).model
    cache = model.new_cache()
    model.prefill([100 + i % 50 for i in range(options.context)], cache)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(options.repeats + 1):
        for size, measured in times.items():
            began = time.perf_counter()
            model.forward(list(range(100, 100 + size)), cache)
            measured.append(time.perf_counter() - began)
            cache.truncate(options.context)
    medians = {size: statistics.median(measured[1:]) for size, measured in times.items()}
    print(
        json.dumps(
            {
                "model": options.model,
                "backend": model.backend,
                "context": options.context,
                "median_ms": {size: round(1e3 * m, 2) for size, m in medians.items()},
                "ratio_to_one": {size: round(m / medians[1], 2) for size, m in medians.items()},
                "environment": describe_environment(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
