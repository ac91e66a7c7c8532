"""Cells that nobody ran: predicted from those that were, and checked against the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from specdec.lab.plan import PLAIN_ARM, Cell
from specdec.lab.plan_file import parse_plan
from specdec.lab.predict import (
    Predictor,
    cells_to_measure,
    completed,
    is_predictable,
    median_error,
)
from specdec.lab.results import Condition, Measured, Results
from specdec.lab.runner import SweepRunner
from specdec.metrics import Totals
from tests.made_runs import record, tiny_events

DRAFT_S, CALL_S = 0.004, 0.04


def call_s(num_drafted: int) -> float:
    """Cost what kernels do that work in blocks of four rows."""
    return CALL_S * (1.0 + 0.45 * (num_drafted // 4))


PLAN = """
predict = true
drafts = ["ngram"]
k = [1, 2, 3, 4, 8]
temperatures = [1.0]
rtt_ms = [0, 20, 100]
max_tokens = 300
[prompts]
classes = ["code", "prose"]
per_class = 4
"""


@pytest.fixture
def plan():
    return parse_plan(PLAN)


@pytest.fixture
def measure(tmp_path):
    """Return a function that makes a cell's run by the engine, on a machine of known costs."""

    @cache
    def events_of(seed: int, k: int):
        return tiny_events(tmp_path, seed=seed, num_tokens=300, k=k)

    def measure_it(cell: Cell) -> Measured:
        pair, events = events_of(len(cell.prompt.text), cell.arm.num_draft_tokens)
        run = record(pair, events).run()
        link_s = cell.rtt_ms / 1e3
        rounds = tuple(
            replace(
                one,
                draft_s=DRAFT_S * one.num_drafted,
                verify_s=call_s(one.num_drafted) + link_s,
                link_s=link_s,
                sample_s=0.0,
                wall_s=call_s(one.num_drafted) + DRAFT_S * one.num_drafted + link_s,
            )
            for one in run.rounds
        )
        return Measured.of_run(
            cell.key, replace(run, rounds=rounds, summary=Totals(rounds).summary())
        )

    return measure_it


def test_each_draft_is_measured_once_and_a_tenth_of_the_rest(plan):
    cells = cells_to_measure(plan)
    assert set(cells) < set(plan.cells)
    base = [
        one
        for one in cells
        if one.arm.is_plain or (one.rtt_ms == 0 and one.arm.num_draft_tokens == 8)
    ]
    assert len(base) == 8 * (3 + 1)
    rest = plan.num_cells - len(base)
    assert 0.03 * rest < len(cells) - len(base) < 0.2 * rest
    assert cells == cells_to_measure(plan)
    assert replace(plan, predicts=False).digest == plan.digest
    assert cells_to_measure(replace(plan, predicts=False)) == plan.cells


def test_every_k_is_among_the_checks_because_each_has_its_own_cost():
    plan = parse_plan(PLAN.replace("per_class = 4", "per_class = 1").replace("20, 100", "20"))
    tried = {cell.arm.num_draft_tokens for cell in cells_to_measure(plan)}
    assert tried == {0, 1, 2, 3, 4, 8}


def test_a_checked_cell_says_nothing_of_its_own_prediction(plan, measure):
    cells = [measure(one) for one in cells_to_measure(plan)]
    check, *_ = Predictor(plan, cells).checks()
    other = measure(plan.cells[-1]).totals_text
    changed = [replace(one, totals_text=other) if one.key == check.key else one for one in cells]
    (again,) = [one for one in Predictor(plan, changed).checks() if one.key == check.key]
    assert again.predicted == check.predicted


def test_the_prediction_is_what_would_have_been_measured(plan, measure):
    results = Results(plan.arms, map(measure, cells_to_measure(plan)))
    predictor = Predictor(plan, results.cells)
    checks = predictor.checks()
    assert len(checks) == len(cells_to_measure(plan)) - 32
    assert median_error(checks) < 0.06  # what acceptance varies by from K to K
    predicted, everything = completed(plan, results), Results(plan.arms, map(measure, plan.cells))
    for rtt_ms in plan.rtt_ms:
        condition = Condition(1.0, rtt_ms)
        ours = {one.arm: one for one in predicted.outcomes(condition)}
        for theirs in everything.outcomes(condition):
            found = ours[theirs.arm]
            assert found.speedup.mean == pytest.approx(theirs.speedup.mean, rel=0.08)
            assert found.num_prompts == 8
            k = theirs.arm.num_draft_tokens
            was_run = k == 0 or (rtt_ms == 0 and k == 8)
            assert found.is_predicted is not was_run
            if not theirs.arm.is_plain:
                assert found.acceptance == pytest.approx(theirs.acceptance, abs=0.06)
                assert found.wasted == pytest.approx(theirs.wasted, rel=0.2)


def test_what_the_formula_does_not_hold_for_is_measured():
    plan = parse_plan(
        PLAN + "[[strategies]]\ndraft = 'smollm2-draft'\ntree = '2-1'\nk = [1, 2]\n"
        "[[strategies]]\ndraft = 'ngram'\npolicy = 'adaptive'\nk = 2"
    )
    measured = Counter(cell.arm for cell in cells_to_measure(plan))
    for arm in plan.arms:
        if not is_predictable(arm):
            assert measured[arm] == 8 * 3
    assert is_predictable(PLAIN_ARM)


def test_a_sweep_that_predicts_runs_no_more_than_it_must(plan):
    runner = SweepRunner(plan, (), lambda cell, run: None)
    assert len(runner.cells()) == runner.num_planned == len(cells_to_measure(plan))
    places = [(cell.prompt, cell.seed) for cell in runner.cells()]
    changes = sum(one != other for one, other in pairwise(places))
    assert changes == 7  # all of a prompt stays together, whatever the link


@pytest.mark.parametrize("totals", [None, "", "[]", '{"summary": {}}', "{"])
def test_cells_without_totals_predict_nothing(plan, measure, totals):
    cells = [replace(measure(one), totals_text=totals) for one in cells_to_measure(plan)]
    assert Predictor(plan, cells).predicted() == []
    assert len(completed(plan, Results(plan.arms, cells)).cells) == len(cells)
