"""`python -m specdec sweep PLAN.toml`: measure what a plan compares, and say what came out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from specdec.cli.text import printable
from specdec.errors import SettingsError
from specdec.lab.plan import Plan
from specdec.lab.plan_file import read_plan
from specdec.lab.predict import Check, Predictor, cells_to_measure, completed, median_error
from specdec.lab.report import Report, cells_csv, document_text, make_report, vllm_lines
from specdec.lab.results import Condition, Outcome, Results
from specdec.lab.runner import Progress as SweepProgress
from specdec.lab.runner import SweepRunner
from specdec.lab.session import Session
from specdec.records import percent
from specdec.saved.files import check_place, write_whole
from specdec.saved.store import RunStore
from specdec.view.lab_report import report_page

LOG_EVERY_S = 30.0
"""How often a log says how far a sweep is; a terminal has a bar."""


def sweep(options: argparse.Namespace, screen: Console) -> int:
    """Measure what is not measured yet; an interrupted sweep goes on when it is called again."""
    path = Path(options.plan)
    plan = read_plan(path)
    reports = [_check_report(Path(one)) for one in options.report]
    _describe(plan, screen)
    if options.check:
        return 0
    store = RunStore()
    with closing(store):
        named = replace(plan, name=plan.name or path.stem)
        runner = Session(store, named, path.read_text(encoding="utf-8-sig")).runner()
        interrupted = _follow(runner, screen)
        status = print_results(completed(plan, runner.results), screen)
        if plan.predicts:
            _print_checks(Predictor(plan, runner.results.cells).checks(), screen)
        if runner.results.cells and reports:
            report = make_report(store, named, runner.results)
            for place in reports:
                write_whole(place, b"".join(_REPORTS[place.suffix.lower()](store, report)))
    if interrupted:
        screen.print("Interrupted; the same command goes on from here.")
        raise KeyboardInterrupt
    return status


_REPORTS: Mapping[str, Callable[[RunStore, Report], Iterable[bytes]]] = {
    ".html": lambda store, report: [report_page(report).encode()],
    ".csv": lambda store, report: [cells_csv(report)],
    ".json": lambda store, report: [document_text(report)],
    ".jsonl": vllm_lines,
}


def _check_report(path: Path) -> Path:
    """Refuse a report that could not be written, before hours are spent on measuring.

    Raises:
        SettingsError: it has another ending, or no place.
    """
    if path.suffix.lower() not in _REPORTS:
        kinds = ", ".join(_REPORTS)
        raise SettingsError(f"A report ends in one of {kinds}, not {path.name!r:.60}.")
    check_place(path)
    return path


def _describe(plan: Plan, screen: Console) -> None:
    if plan.predicts:
        screen.print(f"{len(cells_to_measure(plan)):,} are measured, the others predicted, of:")
    kinds = len({prompt.kind for prompt in plan.prompts})
    screen.print(
        Text(
            printable(
                f"{plan.num_cells:,} cells: {len(plan.prompts)} prompts ({kinds} classes) × "
                f"{len(plan.arms)} arms × temperature {_listed(plan.temperatures)} × round trip "
                f"{_listed(plan.rtt_ms)} ms × {len(plan.seeds)} seeds, on {plan.target}"
            )
        )
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _follow(runner: SweepRunner, screen: Console) -> bool:
    """Run the sweep and return whether it was interrupted.

    Standard error shows a bar on a terminal, and in a log a line now and then.
    """
    errors = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    done = runner.num_planned - len(runner.cells())
    told_s = time.monotonic()
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("opening the models", completed=done, total=runner.num_planned)
        try:
            with closing(runner.run()) as cells:
                for progress in cells:
                    bar.update(
                        task,
                        completed=progress.done,
                        total=progress.total,
                        description=printable(_left(progress)),
                    )
                    if not errors.is_terminal and time.monotonic() - told_s > LOG_EVERY_S:
                        told_s = time.monotonic()
                        errors.print(f"{progress.done}/{progress.total}, {_left(progress)}")
                    if progress.failure is not None:
                        errors.print(Text(printable(f"A cell failed. {progress.failure}")))
                    if progress.is_busy:
                        errors.print(
                            "The machine is busy: plain decoding was much slower just now."
                        )
        except KeyboardInterrupt:
            return True
    return False


def _left(progress: SweepProgress) -> str:
    if progress.left_s is None:
        return "measuring"
    minutes = progress.left_s / 60
    return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def print_results(results: Results, screen: Console) -> int:
    """Print a table for each condition; return 1 if nothing could be measured."""
    conditions = [one for one in results.conditions if results.outcomes(one)]
    for condition in conditions:
        screen.print(_table(condition, results.outcomes(condition)))
    if conditions:
        screen.print("★ the fastest   ≈ these prompts do not tell it from the fastest")
    else:
        screen.print("Nothing was measured.")
    return 0 if conditions else 1


def _print_checks(checks: Sequence[Check], screen: Console) -> None:
    error = median_error(checks)
    if error is not None:
        screen.print(
            f"~ predicted; on {len(checks)} cells that were measured to check, the median error of "
            f"tokens/s is {percent(error)}."
        )


def _table(condition: Condition, outcomes: Sequence[Outcome]) -> Table:
    kind = condition.kind or "all prompts"
    title = f"{kind}, temperature {condition.temperature:g}, round trip {condition.rtt_ms:g} ms"
    table = Table(
        box=SIMPLE, padding=(0, 1, 0, 0), title=Text(printable(title)), title_justify="left"
    )
    for name in ("", "arm", "K", "× plain", "95 %", "tokens/s", "accepted", "prompts"):
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for one in outcomes:
        speedup = one.speedup
        is_sure = speedup.low is not None and speedup.high is not None
        table.add_row(
            "★" if one.is_best else "≈" if one.is_within_noise and is_sure else "",
            Text(printable(one.arm.label)),
            "" if one.arm.is_plain else str(one.arm.num_draft_tokens),
            f"{'~' if one.is_predicted else ''}{speedup.mean:.2f}",
            f"{speedup.low:.2f}–{speedup.high:.2f}" if is_sure else "few prompts",
            f"{one.tokens_per_s:.1f}",
            "" if one.acceptance is None else percent(one.acceptance),
            str(one.num_prompts),
        )
    return table
