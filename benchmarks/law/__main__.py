"""Is the law exact on real weights? Sampled output against the exact law, for every drafter.

    python -m benchmarks.law [--seeds 20000] [--drafts none ngram …] [--reference ours transformers]
                             [--log FILE] [--break argmax|resample|discard]

Each sample is one run of the engine, of which the first three tokens count. Their joint law is
compared with the exact one by Pearson's chi-square: every sequence that is expected at least five
times is a cell, the rest is pooled. The exact law is computed twice: from our own target's logits,
which tests the rule and the bookkeeping alone, and from those that transformers computes in float32
on the same folder (`pip install torch`), which tests the target too. Configurations are every
drafter (any by name, with the shape of its tree behind it: 'smollm2-draft 3-2-1') × K 1, 2, 3,
6 × temperature 0.4, 0.8, 1 × (no truncation, top-k 20, top-p 0.9), with seeds of their own;
`--seeds` of them for each drafter, spread evenly.

A row of logits is computed once and remembered by the tokens before it, which is the same to the
last bit on the portable backend; that it is, and that no cache is rolled back wrongly, is checked
by repeating seeds with nothing remembered (`--repeats`): they must give the same tokens.

Prints a line for each configuration and one JSON document. `power` is the total variation distance
that would have been seen with probability 0.99: for a distance d, Σ (p̂ − p)² / p is at least 4 d²
(Cauchy-Schwarz), the noncentrality per sample. The exit status is 1 if the p-values together
(Fisher) are below 0.001, which happens to an exact law once in a thousand runs of this program, or
if a repeat differs.
`--log` keeps each finished configuration in a file, from which a later call goes on. `--break` puts
one of three classic mistakes into drafter or rule, to show that it would be found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.law.bench import PROMPT, Bench, Case, cases, run_case, summed_up
from benchmarks.law.exact import ALARM
from benchmarks.law.mistakes import MISTAKES
from specdec.runs.machine import describe_environment
from specdec.settings import DEFAULT_MODEL

DRAFTS = ("none", "ngram", "layer-skip", "smollm2-draft", "smollm2-eagle")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="for each drafter")
    parser.add_argument("--drafts", nargs="+", default=DRAFTS)
    parser.add_argument("--target", default=DEFAULT_MODEL)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--reference", nargs="+", default=["ours", "transformers"])
    parser.add_argument("--repeats", type=int, default=10, help="for each configuration")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--break", dest="mistake", choices=MISTAKES)
    options = parser.parse_args()

    bench = Bench(options.target, options.prompt, options.mistake)
    repeats = 0 if options.mistake else options.repeats
    results: list[dict] = []
    if options.log and options.log.exists():
        results = [json.loads(line) for line in options.log.read_text().splitlines()]
    done = {Case(**{f: r[f] for f in Case.__dataclass_fields__ if f in r}) for r in results}
    first_seed, began_s = 0, time.monotonic()
    for case in cases(options.drafts):
        count = options.seeds // (sum(c.draft == case.draft for c in cases(options.drafts)))
        seeds = range(first_seed, first_seed + count)
        first_seed += count
        if case in done:
            continue
        results.append(run_case(bench, case, seeds, options.reference, repeats))
        if options.log:
            with options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1]) + "\n")
        tails = ", ".join(f"{n} {f['p']:.3g}" for n, f in results[-1]["fits"].items())
        print(f"{time.monotonic() - began_s:6.0f} s  {case}: {tails}", file=sys.stderr, flush=True)
    report = summed_up(results, options.reference)
    differing = sum(r["differing"] for r in results)
    print(
        json.dumps(
            {
                "prompt": options.prompt,
                "alarm": ALARM,
                "summary": report,
                "repeated with nothing remembered": sum(r["repeated"] for r in results),
                "of these, differing": differing,
                "configurations": results,
                "environment": describe_environment(),
            },
            indent=1,
        )
    )
    is_off = any(report["all"][reference]["p"] < ALARM for reference in options.reference)
    return 1 if is_off or differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
