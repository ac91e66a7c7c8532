"""A sweep measures every cell once, side by side, whatever interrupts it."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np
import pytest

from specdec.lab.plan import PLAIN_ARM, Arm
from specdec.lab.plan_file import parse_plan
from specdec.lab.results import Condition, Measured, Results
from specdec.lab.runner import SweepRunner
from specdec.lab.session import Session
from specdec.pair import load_model
from specdec.saved.rows import RunFilter
from specdec.saved.store import RunStore
from specdec.saved.sweeps import (
    delete_sweep,
    find_sweep,
    keep_cell,
    list_sweeps,
    measured_cells,
    open_sweep,
)
from tests.lab.big_sweep import store_sweep
from tests.made_runs import tiny_run
from tests.models.tiny import write_tiny_llama

PLAN = """
target = {target!r}
backend = "portable"
drafts = ["ngram"]
k = [1, 2]
temperatures = [0, 1.0]
max_tokens = 6
{more}
[prompts]
classes = ["code", "list"]
per_class = 2
"""
load = cache(load_model)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return str(write_tiny_llama(tmp_path_factory.mktemp("target")))


@pytest.fixture
def plan(target, tmp_path):
    return parse_plan(PLAN.format(target=target, more=""), beside=tmp_path)


class Notebook:
    """What a sweep was told to keep, cell by cell."""

    def __init__(self):
        self.kept = []

    def __call__(self, cell, run):
        self.kept.append((cell, run))

    @property
    def measured(self):
        return [Measured.of_run(cell.key, run) for cell, run in self.kept]


def test_every_cell_is_measured_once_in_blocks_of_one_prompt(plan):
    notebook = Notebook()
    progress = list(SweepRunner(plan, (), notebook, load=load).run())
    cells = [cell for cell, _ in notebook.kept]
    assert sorted(cell.key for cell in cells) == sorted(cell.key for cell in plan.cells)
    assert [one.done for one in progress] == list(range(1, plan.num_cells + 1))
    assert progress[-1].total == plan.num_cells
    assert progress[-1].left_s == 0
    blocks = [tuple(cells[at : at + 3]) for at in range(0, len(cells), 3)]
    for block in blocks:
        assert len({(cell.prompt, cell.temperature) for cell in block}) == 1
        assert {cell.arm for cell in block} == set(plan.arms)
    assert len({tuple(cell.arm for cell in block) for block in blocks}) > 1  # shuffled
    kinds = [block[0].prompt.kind for block in blocks]
    assert all(set(kinds[at : at + 2]) == {"code", "list"} for at in (0, 2, 4, 6))
    for cell, run in notebook.kept:
        assert run.config == plan.config(cell)
        assert run.prompt == cell.prompt.text


def test_greedy_cells_write_the_same_whatever_drafts(plan):
    notebook = Notebook()
    list(SweepRunner(plan, (), notebook, load=load).run())
    texts = {}
    for cell, run in notebook.kept:
        if cell.temperature == 0:
            texts.setdefault(cell.prompt, set()).add(run.token_ids)
    assert len(texts) == 4
    assert all(len(written) == 1 for written in texts.values())


@pytest.mark.parametrize("stop_after", [1, 4, 23])
def test_a_sweep_goes_on_where_it_was_left(plan, stop_after):
    first, second = Notebook(), Notebook()
    with closing(SweepRunner(plan, (), first, load=load).run()) as cells:
        for _ in itertools.islice(cells, stop_after):
            pass
    rest = SweepRunner(plan, first.measured, second, load=load)
    progress = list(rest.run())
    keys = [cell.key for cell, _ in (*first.kept, *second.kept)]
    assert len(first.kept) == stop_after
    assert sorted(keys) == sorted(cell.key for cell in plan.cells)
    assert progress[0].done == stop_after + 1
    assert not SweepRunner(plan, rest_of(first, second), Notebook(), load=load).cells()


def rest_of(*notebooks):
    return [one for notebook in notebooks for one in notebook.measured]


def test_the_budget_ends_a_sweep_between_cells(target, tmp_path):
    plan = parse_plan(PLAN.format(target=target, more="budget_minutes = 1"), beside=tmp_path)
    ticks = itertools.count(step=7.0)
    notebook = Notebook()
    runner = SweepRunner(plan, (), notebook, load=load, clock=lambda: next(ticks))
    list(runner.run())
    assert 0 < len(notebook.kept) < plan.num_cells


def test_a_cell_that_fails_is_said_and_tried_again_next_time(target, tmp_path):
    more = "[[strategies]]\ndraft = './nowhere.gguf'\nk = 2"
    plan = parse_plan(PLAN.format(target=target, more="") + more, beside=tmp_path)
    notebook = Notebook()
    failed = [one for one in SweepRunner(plan, (), notebook, load=load).run() if one.failure]
    assert len(failed) == 8
    assert all("nowhere.gguf" in one.failure for one in failed)
    assert len(notebook.kept) == plan.num_cells - 8
    rest = SweepRunner(plan, notebook.measured, Notebook(), load=load)
    assert {cell.key for cell in rest.cells()} == {one.cell.key for one in failed}


def test_a_condition_beyond_doubt_is_left_out(target, tmp_path):
    text = PLAN.format(target=target, more="").replace("per_class = 2", "per_class = 8")
    plan = parse_plan(text, beside=tmp_path)
    decided = []
    for cell in plan.cells:
        if cell.temperature == 0:
            seconds = {0: 2.0, 1: 1.0, 2: 3.0}[cell.arm.num_draft_tokens]
            decided.append(Measured(cell.key, 10, seconds, None))
    left = len(plan.cells) - len(decided)
    first = json.loads(decided[0].key)["prompt"]
    some = [one for one in decided if json.loads(one.key)["prompt"] != first]
    notebook = Notebook()
    progress = list(SweepRunner(plan, some, notebook, load=load).run())
    measured_greedy = [cell for cell, _ in notebook.kept if cell.temperature == 0]
    assert len(measured_greedy) <= 3  # at most the block that was under way
    assert progress[-1].total <= len(some) + left + 3


def cell_of(arm, number, seconds, seed=0):
    key = json.dumps(
        {
            "prompt": f"{number}",
            "class": "x",
            "draft": arm.draft,
            "tree": "",
            "num_draft_tokens": arm.num_draft_tokens,
            "policy": "fixed",
            "rule": "token",
            "temperature": 0.0,
            "rtt_ms": 0.0,
            "seed": seed,
        }
    )
    return Measured(key, 10, seconds, None if arm.is_plain else 0.5)


def test_seeds_of_a_prompt_make_an_interval_no_narrower():
    arm, rng = Arm("ngram", 2), np.random.default_rng(5)
    cells = [
        cell_of(one, number, seconds)
        for number in range(5)
        for one, seconds in ((PLAIN_ARM, rng.uniform(1, 20)), (arm, rng.uniform(1, 20)))
    ]
    again = [
        replace(one, key=json.dumps(json.loads(one.key) | {"seed": seed}))
        for seed in range(8)
        for one in cells
    ]
    once, repeated = (Results((PLAIN_ARM, arm), some) for some in (cells, again))
    condition = Condition(0.0, 0.0)
    for few, many in zip(once.outcomes(condition), repeated.outcomes(condition), strict=True):
        assert many.num_prompts == few.num_prompts == 5
        assert many.speedup.low == pytest.approx(few.speedup.low)
        assert many.speedup.high == pytest.approx(few.speedup.high)
    assert repeated.num_prompts(condition) == 5


def test_ratios_are_paired_and_their_interval_covers_them():
    arm = Arm("ngram", 2)
    rng = np.random.default_rng(5)
    cells = []
    for number in range(40):
        plain_s = rng.uniform(1, 20)  # prompts differ by far more than arms
        for one, seconds in ((PLAIN_ARM, plain_s), (arm, plain_s / 1.25 * rng.uniform(0.95, 1.05))):
            cells.append(cell_of(one, number, seconds))
    results = Results((PLAIN_ARM, arm), cells)
    best, plain = results.outcomes(Condition(0.0, 0.0))
    assert (best.arm, plain.arm) == (arm, PLAIN_ARM)
    assert best.speedup.low < 1.25 < best.speedup.high
    assert best.speedup.high - best.speedup.low < 0.05
    assert (plain.speedup.low, plain.speedup.mean, plain.speedup.high) == (1.0, 1.0, 1.0)
    assert best.is_best
    assert not plain.is_within_noise
    assert results.is_decided(Condition(0.0, 0.0))
    assert best.acceptance == 0.5
    assert results.outcomes(Condition(0.0, 0.0, "x"))[0].arm == arm
    assert results.outcomes(Condition(0.7, 0.0)) == []


def test_arms_that_are_alike_are_rarely_told_apart_however_often_one_looks():
    """A look after each prompt from the sixth on: at 95 % three such sweeps in ten ended early."""
    arm, ended = Arm("ngram", 2), 0
    for seed in range(30):
        rng, results = np.random.default_rng(seed), Results((PLAIN_ARM, arm), [])
        for number in range(25):
            for one in (PLAIN_ARM, arm):
                results.add(cell_of(one, number, rng.uniform(0.9, 1.1)))
            if number >= 5 and results.is_decided(Condition(0.0, 0.0)):
                ended += 1
                break
    assert ended <= 4


class TestStored:
    @pytest.fixture
    def store(self, tmp_path):
        with closing(RunStore(tmp_path / "runs.db")) as opened:
            yield opened

    def test_cells_are_kept_with_their_sweep_and_out_of_the_list(self, store, plan):
        sweep = open_sweep(store, plan.digest, "mine", "the plan")
        assert open_sweep(store, plan.digest, "renamed", "the plan") == sweep
        runner = SweepRunner(
            plan, (), lambda cell, run: store.save(run, cell=(sweep, cell.key)), load=load
        )
        list(itertools.islice(runner.run(), 5))
        measured = measured_cells(store, sweep)
        assert {one.key for one in measured} == runner.results.keys
        (line,) = list_sweeps(store)
        assert (line.id, line.name, line.num_cells) == (sweep, "mine", 5)
        assert store.count() == 0
        assert store.count(RunFilter(sweep=sweep)) == 5
        again = SweepRunner(
            plan, [Measured.of_cell(one) for one in measured], Notebook(), load=load
        )
        assert len(again.cells()) == plan.num_cells - 5
        for condition in runner.results.conditions:
            for ours, theirs in zip(
                runner.results.outcomes(condition), again.results.outcomes(condition), strict=True
            ):
                assert ours.arm == theirs.arm
                assert theirs.speedup.mean == pytest.approx(ours.speedup.mean)

    def test_two_who_measure_one_sweep_keep_each_cell_once(self, store, plan):
        first, second = (Session(store, plan, "").runner(load=load) for _ in range(2))
        assert not list(itertools.islice(first.run(), 4))[-1].failure
        assert not [one for one in second.run() if one.failure]
        (line,) = list_sweeps(store)
        assert line.num_cells == plan.num_cells
        assert store.count(RunFilter(sweep=line.id)) == plan.num_cells
        assert Session(store, plan, "").runner().cells() == []

    def test_a_sweep_is_deleted_with_its_runs_and_either_comes_back_or_goes_for_good(
        self, store, plan, monkeypatch
    ):
        monkeypatch.setattr("specdec.saved.store._MAX_NAMED", 2)
        others = [open_sweep(store, name, "", "") for name in ("empty", "other")]
        sweep, run = open_sweep(store, plan.digest, "mine", "the plan"), Notebook()
        list(itertools.islice(SweepRunner(plan, (), run, load=load).run(), 3))
        runs = [store.save(one, cell=(sweep, cell.key)) for cell, one in run.kept]
        delete_sweep(store, others[0])
        assert [one.id for one in list_sweeps(store)] == [sweep, others[1]]
        delete_sweep(store, sweep)
        assert [one.id for one in list_sweeps(store)] == [others[1]]
        assert measured_cells(store, sweep) == []
        assert store.last_deleted() == runs
        assert find_sweep(store, plan.digest) == sweep
        store.restore(runs[:2])
        assert list_sweeps(store)[0].num_cells == 2
        # What is measured anew takes the place of what was deleted.
        cell, anew = run.kept[2]
        assert keep_cell(store, sweep, cell.key, anew) == runs[-1] + 1
        assert store.last_deleted() == []
        assert list_sweeps(store)[0].num_cells == 3
        assert keep_cell(store, sweep, cell.key, anew) is None
        delete_sweep(store, sweep)
        monkeypatch.setattr("specdec.saved.store.UNDO_TIME", timedelta(0))
        store.delete([])
        assert find_sweep(store, plan.digest) is None
        assert [one.id for one in list_sweeps(store)] == [others[1]]

    def test_ten_thousand_cells_open_in_less_than_a_second(self, store, tmp_path):
        plan = parse_plan(
            "drafts = ['ngram', 'layer-skip']\ntemperatures = [0, 0.3, 0.7, 1]\nrtt_ms = [0, 10, "
            "50, 100, 200]\n[prompts]\nclasses = ['code', 'prose', 'list', 'summary', 'question']\n"
            "per_class = 8"
        )
        sweep = store_sweep(store, plan, tiny_run(tmp_path, num_tokens=20))

        def open_it():
            assert list_sweeps(store)[0].num_cells == plan.num_cells
            cells = measured_cells(store, sweep)
            results = Results(plan.arms, map(Measured.of_cell, cells))
            assert len(results.outcomes(results.conditions[0])) == len(plan.arms)
            return len(cells)

        began = time.process_time()
        assert open_it() == plan.num_cells == 8_800
        assert time.process_time() - began < 1.0
