"""The sweep on the command line: plan in, tables out, interrupted and gone on with."""

from __future__ import annotations

import json

import pytest

from specdec.cli import sweep
from specdec.cli.main import main
from specdec.lab import runner
from specdec.saved.store import RunStore
from specdec.saved.sweeps import list_sweeps, measured_cells
from tests.models.tiny import write_tiny_llama

PLAN = """
target = {target!r}
backend = "portable"
drafts = ["ngram"]
k = [2]
max_tokens = 4
[prompts]
classes = ["code"]
per_class = 4
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    path = tmp_path / "tiny.toml"
    target = write_tiny_llama(tmp_path / "target")
    path.write_text(PLAN.format(target=str(target)))
    return path


def test_a_plan_can_be_checked_without_measuring(plan, capsys):
    assert main(["sweep", str(plan), "--check"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("8 cells: 4 prompts (1 classes) × 2 arms")
    assert list_sweeps(RunStore()) == []


def test_a_log_says_how_far_it_is(plan, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "LOG_EVERY_S", 0.0)
    assert main(["sweep", str(plan)]) == 0
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "/8, " in line]
    assert told == [f"{done}/8" for done in range(1, 9)]


def test_an_interrupted_sweep_goes_on_and_ends_in_tables(plan, capsys, monkeypatch):
    measure, left = runner.SweepRunner.measure, iter([True] * 3)

    def interrupted(self, cell):
        if not next(left, False):
            raise KeyboardInterrupt
        return measure(self, cell)

    with monkeypatch.context() as patch:
        patch.setattr(runner.SweepRunner, "measure", interrupted)
        assert main(["sweep", str(plan)]) == 130
    assert "goes on from here" in capsys.readouterr().out
    assert list_sweeps(RunStore())[0].num_cells == 3
    assert main(["sweep", str(plan)]) == 0
    printed = capsys.readouterr().out
    assert "all prompts, temperature 0, round trip 0 ms" in printed
    assert "plain decoding" in printed
    assert "ngram" in printed
    assert "★" in printed
    (sweep,) = list_sweeps(RunStore())
    assert (sweep.name, sweep.num_cells) == ("tiny", 8)
    assert len(measured_cells(RunStore(), sweep.id)) == 8
    assert main(["sweep", str(plan)]) == 0


def test_a_bad_plan_is_one_line(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text("kk = 1")
    assert main(["sweep", str(tmp_path / "plan.toml")]) == 2
    complaint = capsys.readouterr().err
    assert "no 'kk' in the plan" in complaint
    assert complaint.count("\n") == 1


def test_reports_are_written_by_their_endings(plan, tmp_path, capsys):
    names = ["out.html", "out.csv", "out.json", "out.jsonl"]
    options = [part for name in names for part in ("--report", str(tmp_path / name))]
    assert main(["sweep", str(plan), *options]) == 0
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 8
    assert json.loads((tmp_path / "out.json").read_text())["cells_measured"] == 8
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all("speculative_decoding" in line["metrics"] for line in lines)


@pytest.mark.parametrize("name", ["out.pdf", "out", "nowhere/out.html"])
def test_a_report_that_cannot_be_written_is_refused_first(plan, tmp_path, name, capsys):
    before = list_sweeps(RunStore())
    assert main(["sweep", str(plan), "--report", str(tmp_path / name)]) == 2
    assert list_sweeps(RunStore()) == before
