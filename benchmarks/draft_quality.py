"""How good a draft is: acceptance, the cost of a step, and the speed-up at its best K.

    python -m benchmarks.draft_quality [--draft NAME] [--prompts 100] [--tokens 128]
                                       [--speed-prompts 6]

Prompts are those of training/evaluation_prompts.json, which no training saw. Acceptance is counted
at the drafted position itself: position 1 of a round, position 2 where position 1 was accepted, and
so on; `expected` is the mean of Σ min(p, q) at position 1, the chance behind the count. Speed-ups
are measured against plain decoding over the same emulated link, interleaved; the runs without a
link stand beside them. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import cache
from pathlib import Path

from specdec import RoundResult, RoundSettings, RunConfig, RunSummary, Sampler, generate
from specdec.drafters.none import NoDrafter
from specdec.metrics import Totals, conditional_acceptance
from specdec.pair import load_model, make_drafter, make_pair
from specdec.runs.machine import describe_environment
from specdec.targets.link import EmulatedLink

PROMPTS = Path(__file__).parents[1] / "training" / "evaluation_prompts.json"
LINK_S = 0.05
SPEED_KS = (2, 3, 4, 6)


def choose_prompts(count: int) -> list[tuple[str, str]]:
    """Return (kind, prompt) for `count` prompts, the kinds in their proportion."""
    by_kind = json.loads(PROMPTS.read_text(encoding="utf-8"))
    total = sum(map(len, by_kind.values()))
    return [
        (kind, prompt)
        for kind, prompts in by_kind.items()
        for prompt in prompts[: max(1, round(count * len(prompts) / total))]
    ]


def acceptance(rounds: list[RoundResult]) -> dict[str, object]:
    """Return what was accepted, by position."""
    summary = Totals(rounds).summary()
    firsts = [r.candidates[0].expected_acceptance for r in rounds if r.candidates]
    return {
        "rounds": summary.num_spec_steps,
        "expected": round(statistics.mean(firsts), 4),
        "by_position": [
            None if a is None else round(a, 3) for a in conditional_acceptance(summary)
        ],
        "mean_acceptance_length": round(summary.mean_acceptance_length, 3),
    }


def step_cost(target, draft, repeats: int = 30) -> dict[str, float]:
    """Time one-token forwards of both models, interleaved; medians in milliseconds."""
    times = {"target": [], "draft": []}
    models = {"target": target, "draft": draft}
    caches = {name: model.new_cache() for name, model in models.items()}
    for name, model in models.items():
        model.prefill(list(range(100, 200)), caches[name])
    for _ in range(repeats):
        for name, model in models.items():
            began = time.perf_counter()
            model.forward([150], caches[name])
            times[name].append(time.perf_counter() - began)
            caches[name].truncate(100)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "target_ms": round(1e3 * medians["target"], 2),
        "draft_ms": round(1e3 * medians["draft"], 2),
        "ratio": round(medians["draft"] / medians["target"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=RunConfig().target)
    parser.add_argument("--draft", default=RunConfig().draft)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--speed-prompts", type=int, default=6)
    options = parser.parse_args()

    load = cache(load_model)

    config = RunConfig(target=options.target, draft="none", backend="portable")
    pair = make_pair(config, load)
    drafter = make_drafter(options.draft, load(options.target, "portable"), "portable", load)

    def run(target, prompt, drafter, num_draft_tokens, temperature, seed=0):
        events = list(
            generate(
                pair.encode_prompt(prompt),
                target,
                RoundSettings(drafter, num_draft_tokens, Sampler(temperature)),
                max_tokens=options.tokens,
                eos_token_ids=pair.tokenizer.eos_token_ids,
                seed=seed,
            )
        )
        assert isinstance(events[-1], RunSummary)
        return [e for e in events if isinstance(e, RoundResult)], events[-1]

    prompts = choose_prompts(options.prompts)
    report: dict[str, object] = {"draft": options.draft, "prompts": len(prompts)}
    report["step_cost"] = step_cost(pair.target.model, drafter.model)
    for temperature in (0.7, 0.0):
        rounds: dict[str, list[RoundResult]] = {}
        for index, (kind, prompt) in enumerate(prompts):
            print(f"temperature {temperature}: prompt {index + 1}", file=sys.stderr)
            rounds.setdefault(kind, []).extend(run(pair.target, prompt, drafter, 4, temperature)[0])
        everything = [one for of_kind in rounds.values() for one in of_kind]
        report[f"temperature {temperature}"] = {"all": acceptance(everything)} | {
            kind: acceptance(of_kind) for kind, of_kind in rounds.items()
        }

    link = EmulatedLink(pair.target, LINK_S)
    factors: dict[tuple[int, str], list[float]] = {}
    for index, (_, prompt) in enumerate(prompts[:: max(1, len(prompts) // options.speed_prompts)]):
        for name, target in (("50 ms link", link), ("no link", pair.target)):
            plain = run(target, prompt, NoDrafter(), 0, 0.7, index)[1].tokens_per_s
            for k in SPEED_KS:
                speed = run(target, prompt, drafter, k, 0.7, index)[1].tokens_per_s
                factors.setdefault((k, name), []).append(speed / plain)
    report["speedup"] = {
        f"K={k}, {name}": round(statistics.median(values), 3)
        for (k, name), values in factors.items()
    }
    report["environment"] = describe_environment()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
