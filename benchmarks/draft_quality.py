"""How good drafts are: acceptance, the cost of a step, and the speed-up at their best K.

    python -m benchmarks.draft_quality [--draft NAME]… [--prompts 100] [--tokens 128]
                                       [--speed-prompts 6]

Prompts are those of training/evaluation_prompts.json, which no training saw. Acceptance is counted
at the drafted position itself: position 1 of a round, position 2 where position 1 was accepted, and
so on; `expected` is the mean of Σ min(p, q) at position 1, the chance behind the count. Speed-ups
are measured against plain decoding over the same emulated link, for every draft given, with K fixed
and by the adaptive policy, interleaved; the runs without a link stand beside them. The cost of a
step is what a draft of four tokens takes, a feature head's reading of the target's states included,
over four and over a step of the target. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import cache
from itertools import product
from pathlib import Path

from specdec import RoundResult, RoundSettings, RunConfig, RunSummary, Sampler, generate
from specdec.drafters.none import NoDrafter
from specdec.metrics import Totals, conditional_acceptance
from specdec.pair import load_model, make_drafter, make_pair
from specdec.policies.named import find_policy
from specdec.runs.machine import describe_environment
from specdec.targets.link import EmulatedLink

PROMPTS = Path(__file__).parents[1] / "training" / "evaluation_prompts.json"
LINK_S = 0.05
SPEED_KS = tuple(range(1, 9))
STEPS_TIMED = 4


def choose_prompts(count: int) -> list[tuple[str, str]]:
    """Return (kind, prompt) for `count` prompts, the kinds in their proportion."""
    by_kind = json.loads(PROMPTS.read_text(encoding="utf-8"))
    total = sum(map(len, by_kind.values()))
    return [
        (kind, prompt)
        for kind, prompts in by_kind.items()
        for prompt in prompts[: max(1, round(count * len(prompts) / total))]
    ]


def spread(prompts: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Return `count` of the prompts, or all there are, evenly from the first on."""
    count = min(count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


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


def step_cost(target, drafters, prompt, repeats: int = 30) -> dict[str, dict[str, float]]:
    """Time plain steps of the target and drafts of four tokens, interleaved; medians in ms."""
    times: dict[str, list[float]] = {}
    for name in ("target", *drafters):
        times[name] = []
    for repeat in range(repeats):
        for name, drafter in drafters.items():
            settings = RoundSettings(drafter, STEPS_TIMED, Sampler(0.7))
            events = generate(prompt, target, settings, max_tokens=3 * STEPS_TIMED, seed=repeat)
            rounds = [e for e in events if isinstance(e, RoundResult)]
            drafted = [r for r in rounds[1:] if len(r.candidates) == STEPS_TIMED]
            times[name] += [r.draft_s / STEPS_TIMED for r in drafted]
        plain = RoundSettings(NoDrafter(), 0, Sampler(0.7))
        events = generate(prompt, target, plain, max_tokens=6, seed=repeat)
        times["target"] += [e.verify_s for e in events if isinstance(e, RoundResult)][1:]
    medians = {name: statistics.median(values) for name, values in times.items()}
    target_s = medians.pop("target")
    return {
        name: {
            "target_ms": round(1e3 * target_s, 2),
            "draft_ms": round(1e3 * draft_s, 2),
            "ratio": round(draft_s / target_s, 3),
        }
        for name, draft_s in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=RunConfig().target)
    parser.add_argument("--draft", action="append", help="more than one may be given")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--speed-prompts", type=int, default=6)
    options = parser.parse_args()
    names = options.draft or [RunConfig().draft]

    load = cache(load_model)

    config = RunConfig(target=options.target, draft="none", backend="portable")
    pair = make_pair(config, load)
    loaded = load(options.target, "portable")
    drafters = {name: make_drafter(name, loaded, "portable", load) for name in names}

    def run(target, prompt, drafter, num_draft_tokens, temperature, seed=0, policy="fixed"):
        events = list(
            generate(
                pair.encode_prompt(prompt),
                target,
                RoundSettings(drafter, num_draft_tokens, Sampler(temperature), find_policy(policy)),
                max_tokens=options.tokens,
                eos_token_ids=pair.tokenizer.eos_token_ids,
                seed=seed,
            )
        )
        assert isinstance(events[-1], RunSummary)
        return [e for e in events if isinstance(e, RoundResult)], events[-1]

    prompts = choose_prompts(options.prompts)
    report: dict[str, object] = {"prompts": len(prompts)}
    report["step_cost"] = step_cost(pair.target, drafters, pair.encode_prompt(prompts[0][1]))
    for name, temperature in product(drafters, (0.7, 0.0)):
        rounds: dict[str, list[RoundResult]] = {}
        for index, (kind, prompt) in enumerate(prompts):
            print(f"{name}, temperature {temperature}: prompt {index + 1}", file=sys.stderr)
            written, _ = run(pair.target, prompt, drafters[name], 4, temperature)
            rounds.setdefault(kind, []).extend(written)
        everything = [one for of_kind in rounds.values() for one in of_kind]
        report[f"{name}, temperature {temperature}"] = {"all": acceptance(everything)} | {
            kind: acceptance(of_kind) for kind, of_kind in rounds.items()
        }

    links = {"50 ms link": EmulatedLink(pair.target, LINK_S), "no link": pair.target}
    ways = [(k, "fixed") for k in SPEED_KS] + [(max(SPEED_KS), "adaptive")]
    factors: dict[str, list[float]] = {}
    for index, (_, prompt) in enumerate(spread(prompts, options.speed_prompts)):
        for link, target in links.items():
            plain = run(target, prompt, NoDrafter(), 0, 0.7, index)[1].tokens_per_s
            for (name, drafter), (k, policy) in product(drafters.items(), ways):
                speed = run(target, prompt, drafter, k, 0.7, index, policy)[1].tokens_per_s
                way = f"K={k}" if policy == "fixed" else policy
                factors.setdefault(f"{name}, {way}, {link}", []).append(speed / plain)
    report["speedup"] = {way: round(statistics.median(one), 3) for way, one in factors.items()}
    report["environment"] = describe_environment()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
