"""The report of a sweep shows everything as text, loads nothing, and says what is predicted."""

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from dataclasses import replace

import pytest

from specdec.lab.plan_file import parse_plan
from specdec.lab.report import (
    CSV_COLUMNS,
    Report,
    cells_csv,
    document_text,
    make_report,
    vllm_lines,
)
from specdec.lab.results import Measured, Results
from specdec.saved.store import RunStore
from specdec.saved.sweeps import measured_cells
from specdec.saved.vllm_summary import parse_vllm_summary
from specdec.view.lab_report import report_page
from tests.lab.big_sweep import store_sweep
from tests.made_runs import tiny_run
from tests.saved.test_share_html import HOSTILE, Page

PLAN = f"""
name = {json.dumps(HOSTILE)}
target = {json.dumps(HOSTILE)}
drafts = [{json.dumps(HOSTILE)}, "ngram"]
k = [1, 2]
rtt_ms = [0, 20]
predict = true
[prompts]
classes = ["code"]
per_class = 4
[[prompts.given]]
prompt = {json.dumps("=1+1" + HOSTILE)}
class = {json.dumps(HOSTILE)}
"""


@pytest.fixture
def store(tmp_path):
    with closing(RunStore(tmp_path / "runs.db")) as opened:
        yield opened


@pytest.fixture
def report(store, tmp_path) -> Report:
    plan = parse_plan(PLAN)
    sweep = store_sweep(store, plan, tiny_run(tmp_path, num_tokens=30))
    cells = [Measured.of_cell(one) for one in measured_cells(store, sweep)]
    return make_report(store, plan, Results(plan.arms, cells))


def test_whatever_a_plan_says_is_text(report):
    html = report_page(report)
    page = Page(html)
    assert not page.tags & {"script", "img", "iframe", "link", "object", "form", "svg"}
    assert not any(name.startswith("on") or name in ("href", "src") for name, _ in page.attributes)
    assert "default-src 'none'" in html
    assert page.text.count(HOSTILE) > 3
    assert "http:" not in html
    assert "https:" not in html


def test_the_page_tells_what_was_found(report):
    page = Page(report_page(report))
    assert "Temperature 0, round trip 20 ms" in page.text
    assert "times plain decoding" in page.text
    assert "vllm serve" in page.text
    classes = {value for name, value in page.attributes if name == "class"}
    assert "cell measured framed" in classes or "cell measured" in classes


def test_what_is_predicted_is_striped_and_its_error_is_told(report):
    some = [one for one in report.measured if '"rtt_ms": 20.0' not in one.key or "none" in one.key]
    plan = report.plan
    partial = replace(report, results=Results(plan.arms, some))
    partial = replace(partial, measured=tuple(some))
    html = report_page(replace(partial, results=_completed(plan, some), checks=report.checks))
    assert 'class="cell predicted' in html
    assert "the median error of tokens per second is" in html


def _completed(plan, cells):
    from specdec.lab.predict import completed

    return completed(plan, Results(plan.arms, cells))


def test_every_cell_is_a_row_and_none_a_formula(report):
    rows = list(csv.DictReader(io.StringIO(cells_csv(report).decode())))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == report.plan.num_cells
    assert {row["known"] for row in rows} == {"measured"}
    assert not any(value.startswith(("=", "+", "@")) for row in rows for value in row.values())
    assert any(json.loads(row["prompt"]) == "=1+1" + HOSTILE for row in rows)


def test_the_document_has_intervals_and_advice(report):
    made = json.loads(document_text(report))
    assert parse_plan(made["plan"]).digest == report.plan.digest
    first = made["conditions"][0]
    assert first["advice"]
    assert {"mean", "low", "high", "num_values"} == set(first["arms"][0]["speedup"])
    assert made["checks"]["cells"] == len(report.checks) > 0
    assert made["environment"] == {}  # these cells have no runs to ask


def test_vllm_reads_its_own_metrics_of_each_run(report, store, tmp_path):
    run_id = store.save(tiny_run(tmp_path, num_tokens=30))
    some = tuple(replace(one, run_id=run_id) for one in report.measured[:2])
    lines = list(vllm_lines(store, replace(report, measured=some)))
    assert len(lines) == 2
    run = parse_vllm_summary(lines[0])
    assert (
        run.summary.num_accepted_draft_tokens
        == store.load(run_id).summary.num_accepted_draft_tokens
    )
    assert json.loads(lines[0])["cell"] == json.loads(some[0].key)


def test_speeds_of_two_machines_are_not_compared(report):
    cells = []
    for number, one in enumerate(report.measured):
        facts = json.loads(one.totals_text) | {"machine": "ab"[number % 2]}
        cells.append(replace(one, totals_text=json.dumps(facts)))
    results = Results(report.plan.arms, cells)
    assert replace(report, measured=tuple(cells)).machines == ["a", "b"]
    for condition in results.conditions:
        for arm in report.plan.arms:
            for ours, plain in results.pairs(condition, arm):
                assert ours.machine == plain.machine
