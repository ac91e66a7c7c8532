"""A sweep as what can be taken away: a table, one JSON document, and vLLM's metrics of each run.

As a page to read it is drawn by `specdec.view.lab_report`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from specdec.codec import dumps, to_json
from specdec.errors import StoreError
from specdec.lab.advice import advise, sentences
from specdec.lab.plan import Plan
from specdec.lab.plan_file import write_plan
from specdec.lab.predict import Check, Predictor, completed, median_error
from specdec.lab.results import Condition, Measured, Outcome, Results
from specdec.runs.noise import CONFIDENCE
from specdec.saved.store import RunStore
from specdec.saved.vllm_summary import vllm_summary


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report tells.

    Attributes:
        plan: what was compared.
        results: with predictions, where the plan makes them.
        measured: the cells that were run.
        checks: those of them that were predicted, too.
        environment: hardware and versions of one of the runs, by name.
    """

    plan: Plan
    results: Results
    measured: tuple[Measured, ...]
    checks: tuple[Check, ...]
    environment: Mapping[str, str]

    @property
    def machines(self) -> list[str]:
        """The marks of the machines that measured, those that are not known left out."""
        return sorted({one.machine for one in self.measured if one.machine})


def make_report(store: RunStore, plan: Plan, results: Results) -> Report:
    """Gather a report.

    Raises:
        StoreError: the store cannot be read.
    """
    checks = Predictor(plan, results.cells).checks() if plan.predicts else []
    environment = _environment(store, results)
    whole = completed(plan, results)
    return Report(plan, whole, tuple(results.cells), tuple(checks), environment)


def _environment(store: RunStore, results: Results) -> Mapping[str, str]:
    """Return that of the first run that is still there."""
    for one in results.cells:
        if one.run_id is not None:
            try:
                return store.load(one.run_id).environment
            except StoreError:  # deleted or damaged; the next one may not be
                continue
    return {}


# -- table ---------------------------------------------------------------------------------------

_KEY = ("draft", "tree", "policy", "rule", "num_draft_tokens", "temperature", "rtt_ms", "seed")
_TIMES = ("draft_s", "verify_s", "link_s", "sample_s", "prefill_s")
CSV_COLUMNS = (
    *("prompt", "class", *_KEY, "known", "machine", "run", "tokens", "seconds", "tokens_per_s"),
    *("acceptance", "wasted_per_token", "target_calls", "drafted", *_TIMES),
)


def cells_csv(report: Report) -> bytes:
    """Return a row for every cell, run or predicted.

    Texts are JSON strings, so that no spreadsheet takes one that begins with "=" for a formula.
    """
    prompts = {prompt.mark: prompt.text for prompt in report.plan.prompts}
    measured = {one.key for one in report.measured}
    predicted = [one for one in report.results.cells if one.key not in measured]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in (*report.measured, *predicted):
        writer.writerow(_csv_row(one, prompts))
    return file.getvalue().encode()


def _csv_row(one: Measured, prompts: Mapping[str, str]) -> list[Any]:
    facts, totals = json.loads(one.key), one.totals
    of_key = [facts[name] for name in _KEY]
    times = [None if totals is None else getattr(totals, name) for name in _TIMES]
    return [
        _quoted(prompts.get(facts["prompt"], "")),
        _quoted(facts["class"]),
        *(_quoted(value) if isinstance(value, str) else value for value in of_key),
        "predicted" if one.is_predicted else "measured",
        one.machine,
        one.run_id,
        one.tokens,
        one.seconds,
        one.tokens / one.seconds if one.seconds > 0 else None,
        one.acceptance,
        one.waste,
        None if totals is None else totals.num_target_calls,
        None if totals is None else totals.num_draft_tokens,
        *times,
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- JSON ----------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    """Return the report as one JSON object: plan, outcomes with intervals, advice, and checks."""
    error = median_error(report.checks)
    return {
        "name": report.plan.name,
        "plan": write_plan(report.plan),
        "confidence": CONFIDENCE,
        "environment": dict(report.environment),
        "machines": report.machines,
        "cells_measured": len(report.measured),
        "checks": {"cells": len(report.checks), "median_error": error},
        "conditions": [_condition(report, condition) for condition in report.results.conditions],
    }


def _condition(report: Report, condition: Condition) -> dict[str, Any]:
    advice = advise(report.results, condition)
    return {
        "class": condition.kind or None,
        "temperature": condition.temperature,
        "rtt_ms": condition.rtt_ms,
        "advice": [] if advice is None else sentences(advice),
        "arms": [_arm(one) for one in report.results.outcomes(condition)],
    }


def _arm(one: Outcome) -> dict[str, Any]:
    values: dict[str, Any] = to_json(asdict(one))
    return values


def document_text(report: Report) -> bytes:
    """Return the JSON document as text."""
    return json.dumps(document(report), ensure_ascii=False, indent=1).encode()


# -- vLLM ----------------------------------------------------------------------------------------


def vllm_lines(store: RunStore, report: Report) -> Iterator[bytes]:
    """Yield vLLM's per-request metrics of each run, a line of JSON each; `cell` says which it is.

    Raises:
        StoreError: the store cannot be read.
    """
    for one in report.measured:
        if one.run_id is not None:
            metrics = vllm_summary(store.load(one.run_id))
            yield (dumps({"cell": json.loads(one.key), **metrics}) + "\n").encode()
