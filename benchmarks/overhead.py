"""The share of a run that is not a model's forward pass, and the speed-ups, per configuration.

    python -m benchmarks.overhead [--tokens 96] [--repeats 3]

Configurations are run interleaved; medians are printed as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import cache

from specdec import RunConfig
from specdec.pair import load_model
from specdec.perform import Performance
from specdec.runs.machine import describe_environment
from specdec.runs.speedup import speedup_of

PROMPT = "Write a short story about a lighthouse keeper who finds a message in a bottle."
CONFIGURATIONS = [
    {"draft": "none", "num_draft_tokens": 0},
    {"draft": "ngram", "num_draft_tokens": 4},
    {"draft": "layer-skip", "num_draft_tokens": 4},
    {"draft": "auto", "num_draft_tokens": 4},
    {"draft": "auto", "num_draft_tokens": 4, "rtt_ms": 50.0},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    load = cache(load_model)

    results: dict[int, list[dict[str, float]]] = {i: [] for i in range(len(CONFIGURATIONS))}
    for repeat in range(options.repeats):
        for index, changes in enumerate(CONFIGURATIONS):
            config = RunConfig(**changes, temperature=0.7, max_tokens=options.tokens, seed=repeat)
            performance = Performance(config, PROMPT, load=load)
            for _ in performance.frames():
                pass
            run = performance.run()
            summary, speedup = run.summary, speedup_of(run)
            forward_s = summary.prefill_s + summary.draft_s + summary.verify_s
            results[index].append(
                {
                    "rest_share": 1 - forward_s / summary.wall_s,
                    "acceptance_rate": summary.draft_acceptance_rate or 0.0,
                    "tokens_per_s": summary.tokens_per_s,
                    "speedup_over_link": speedup.over_link.mean,
                    "speedup_without_link": speedup.alone.mean,
                }
            )
    report = [
        changes
        | {
            name: round(statistics.median(row[name] for row in results[index]), 4)
            for name in results[index][0]
        }
        for index, changes in enumerate(CONFIGURATIONS)
    ]
    print(json.dumps({"results": report, "environment": describe_environment()}, indent=1))


if __name__ == "__main__":
    main()
