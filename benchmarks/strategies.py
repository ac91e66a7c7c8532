"""Which drafting strategy pays, and where: every one of them over the same prompts, side by side.

    python -m benchmarks.strategies [--prompts 5] [--tokens 64] [--temperature 0.7]
                                    [--rtt-ms 0 50] [--store FILE] [--markdown FILE]

A sweep of the lab (specdec/lab): per prompt, all strategies and plain decoding one after the other
in a drawn order, on built-in prompts of four classes (code, prose, summary of a given text, list).
For each link one table: times plain decoding with its paired 95 % interval over prompts, and the
same of each class (≈: not told apart from the fastest); tokens per target call, drafted tokens per
call, what a call costs against a plain one, share accepted. Then three bars:

- adaptive K is within 5 % of the best fixed K of the same draft on each class, and never below 0.97
  of plain decoding;
- a tree yields at least 1.15 times the tokens per call of the chain of the same draft and depth;
- the tree "best" is within 3 % of the fastest shape of the same draft that was tried, chains
  included.

Some hours on two cores; `--store` keeps each run, and the same call goes on from there. What the
tables say of speed depends on machine and load, what they say of tokens and acceptance does not.
The exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from specdec.lab.plan import PLAIN_ARM, Arm, Plan, Strategy
from specdec.lab.plan_file import write_plan
from specdec.lab.prompts import built_in
from specdec.lab.results import Condition, Outcome
from specdec.lab.runner import SweepRunner
from specdec.lab.session import Session
from specdec.metrics import Totals
from specdec.runs.machine import describe_environment
from specdec.runs.run import Run
from specdec.saved.store import RunStore
from specdec.saved.sweeps import measured_cells
from specdec.settings import DEFAULT_MODEL, TRAINED_DRAFTS, TRAINED_HEADS

CLASSES = ("code", "prose", "summary", "list")
DRAFT, SIX_LAYERS = TRAINED_HEADS[DEFAULT_MODEL], TRAINED_DRAFTS[DEFAULT_MODEL]
CHAINS = (1, 2, 3, 4, 6)
TREES = {"2-1": 2, "3-2-1": 3, "2-2-1-1": 4}
"""Fixed shapes and their depth, which is the K of the chain that each is compared with."""
ADAPTIVE = Arm(DRAFT, 3, policy="adaptive")
BEST = Arm(DRAFT, 6, tree="best")
STRATEGIES = (
    Strategy(DRAFT, CHAINS),
    *(Strategy(DRAFT, (depth,), tree=shape) for shape, depth in TREES.items()),
    Strategy(DRAFT, (8,), tree="auto"),
    Strategy(DRAFT, (BEST.num_draft_tokens,), tree=BEST.tree),
    *(Strategy(DRAFT, (3,), policy=policy) for policy in ("adaptive", "hf", "entropy")),
    Strategy(DRAFT, (3,), rule="block"),
    Strategy(SIX_LAYERS, (2,)),
    Strategy(SIX_LAYERS, (3,), tree="3-2-1"),
    Strategy("layer-skip", (2,)),
    Strategy("ngram", (3,)),
    Strategy("suffix", (8,)),
    Strategy("lookahead", (8,)),
    Strategy(f"{DRAFT}+suffix", (3,)),
    Strategy(f"{DRAFT}|suffix", (3,)),
)
ADAPTIVE_SHARE, PLAIN_SHARE, TREE_GAIN, BEST_SHARE = 0.95, 0.97, 1.15, 0.97


class Counts:
    """Tokens, calls and times of an arm's runs under one link; means that load does not move."""

    def __init__(self) -> None:
        self.tokens = self.calls = self.drafted = 0
        self.call_s: list[float] = []

    def add(self, run: Run) -> None:
        summary = Totals(run.rounds).summary()
        self.tokens += summary.num_tokens
        self.calls += summary.num_target_calls
        self.drafted += summary.num_draft_tokens
        self.call_s += [result.verify_s - result.link_s for result in run.rounds]

    @property
    def tokens_per_call(self) -> float:
        return self.tokens / self.calls

    @property
    def drafted_per_call(self) -> float:
        return self.drafted / self.calls


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=5, help="of each class, up to 8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--rtt-ms", type=float, nargs="+", default=[0.0, 50.0])
    parser.add_argument("--store", type=Path, default=Path("strategies.db"))
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    options = parser.parse_args()

    plan = Plan(
        prompts=tuple(built_in(CLASSES, options.prompts)),
        strategies=STRATEGIES,
        temperatures=(options.temperature,),
        rtt_ms=tuple(options.rtt_ms),
        max_tokens=options.tokens,
        stops_early=False,
        name="strategies",
    )
    with closing(RunStore(options.store)) as store:
        runner, run_ids = _measure(plan, store)
        counts = _count(store, plan, run_ids)
    lines = list(_report(plan, runner, counts))
    bars = list(_bars(plan, runner, counts))
    lines += ["", *(f"- {'met' if is_met else '**missed**'}: {words}" for is_met, words in bars)]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if all(is_met for is_met, _ in bars) else 1


def _measure(plan: Plan, store: RunStore) -> tuple[SweepRunner, Mapping[str, int]]:
    """Measure what is not measured yet; return all results and the run of each cell."""
    session = Session(store, plan, write_plan(plan))
    runner = session.runner()
    for progress in runner.run():
        left = "" if progress.left_s is None else f"{progress.left_s / 60:.0f} min left"
        print(f"{progress.done}/{progress.total} {left} {progress.failure or ''}", file=sys.stderr)
    return runner, {one.key: one.run_id for one in measured_cells(store, session.sweep_id)}


def _count(
    store: RunStore, plan: Plan, run_ids: Mapping[str, int]
) -> Mapping[tuple[Arm, float], Counts]:
    counts = {(arm, rtt_ms): Counts() for arm in plan.arms for rtt_ms in plan.rtt_ms}
    for cell in plan.cells:
        if cell.key in run_ids:
            counts[cell.arm, cell.rtt_ms].add(store.load(run_ids[cell.key]))
    return counts


def _report(
    plan: Plan, runner: SweepRunner, counts: Mapping[tuple[Arm, float], Counts]
) -> Iterator[str]:
    """Yield Markdown: a table for each link."""
    temperature = plan.temperatures[0]
    environment = ", ".join(f"{name} {value}" for name, value in describe_environment().items())
    yield f"{len(plan.prompts)} prompts × {plan.max_tokens} tokens, temperature {temperature:g}."
    yield f"On {environment}."
    for rtt_ms in plan.rtt_ms:
        yield from ("", f"### Round trip {rtt_ms:g} ms", "")
        names = ("times plain", "95 %", *CLASSES, "tokens/call", "drafted/call", "call", "accepted")
        yield f"| strategy | K | {' | '.join(names)} |"
        yield "|---" * (2 + len(names)) + "|"
        plain_s = median(counts[PLAIN_ARM, rtt_ms].call_s)
        by_class = [
            {one.arm: one for one in runner.results.outcomes(Condition(temperature, rtt_ms, kind))}
            for kind in CLASSES
        ]
        for one in runner.results.outcomes(Condition(temperature, rtt_ms)):
            of_classes = [outcomes[one.arm] for outcomes in by_class]
            yield _row(one, of_classes, counts[one.arm, rtt_ms], plain_s)


def _times(outcome: Outcome) -> str:
    return f"{outcome.speedup.mean:.2f}{' ≈' if outcome.is_within_noise else ''}"


def _row(outcome: Outcome, of_classes: Sequence[Outcome], counts: Counts, plain_s: float) -> str:
    speedup, arm = outcome.speedup, outcome.arm
    low = "" if speedup.low is None else f"{speedup.low:.2f}–{speedup.high:.2f}"
    accepted = "" if outcome.acceptance is None else f"{100 * outcome.acceptance:.0f} %"
    cells = (
        arm.label.replace("|", "\\|"),
        "" if arm.is_plain else str(arm.num_draft_tokens),
        _times(outcome),
        low,
        *map(_times, of_classes),
        f"{counts.tokens_per_call:.2f}",
        f"{counts.drafted_per_call:.1f}",
        f"{median(counts.call_s) / plain_s:.2f} ×",
        accepted,
    )
    return f"| {' | '.join(cells)} |"


def _bars(
    plan: Plan, runner: SweepRunner, counts: Mapping[tuple[Arm, float], Counts]
) -> Iterator[tuple[bool, str]]:
    """Yield for each bar whether it is met, and the figures."""
    for rtt_ms in plan.rtt_ms:
        at = f"at {rtt_ms:g} ms"
        for kind in CLASSES:
            speeds = _speeds(runner, Condition(plan.temperatures[0], rtt_ms, kind))
            fixed = max(speeds[Arm(DRAFT, k)] for k in CHAINS)
            fixed = max(fixed, speeds[PLAIN_ARM])  # K = 0 is a fixed K as well
            share, plain = speeds[ADAPTIVE] / fixed, speeds[ADAPTIVE] / speeds[PLAIN_ARM]
            yield (
                share >= ADAPTIVE_SHARE and plain >= PLAIN_SHARE,
                f"adaptive K on {kind} {at}: {share:.2f} of the best fixed K (bar "
                f"{ADAPTIVE_SHARE}), {plain:.2f} of plain decoding (bar {PLAIN_SHARE})",
            )
        speeds = _speeds(runner, Condition(plan.temperatures[0], rtt_ms))
        shapes = [Arm(DRAFT, k) for k in CHAINS]
        shapes += [Arm(DRAFT, depth, tree=shape) for shape, depth in TREES.items()]
        share = speeds[BEST] / max(speeds[arm] for arm in shapes)
        yield share >= BEST_SHARE, f'tree "best" {at}: {share:.2f} of the fastest shape tried'
    rtt_ms = plan.rtt_ms[0]
    for shape, depth in TREES.items():
        tree = counts[Arm(DRAFT, depth, tree=shape), rtt_ms].tokens_per_call
        gain = tree / counts[Arm(DRAFT, depth), rtt_ms].tokens_per_call
        yield gain >= TREE_GAIN, f"tree {shape}: {gain:.2f} times the tokens per call of its chain"


def _speeds(runner: SweepRunner, condition: Condition) -> Mapping[Arm, float]:
    outcomes: Sequence[Outcome] = runner.results.outcomes(condition)
    return {one.arm: one.speedup.mean for one in outcomes}


if __name__ == "__main__":
    raise SystemExit(main())
