"""A sweep on a Dask cluster loses nothing to a worker that dies."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import pytest

from specdec.errors import SettingsError, StoreError
from specdec.lab.cluster import ClusterRunner, measure_block
from specdec.lab.plan_file import parse_plan, write_plan
from specdec.lab.session import Session
from specdec.saved.rows import RunFilter
from specdec.saved.store import RunStore
from specdec.saved.sweeps import list_sweeps, measured_cells
from tests.models.tiny import write_tiny_llama

PLAN = """
target = {target!r}
backend = "portable"
stops_early = false
drafts = ["ngram"]
k = [1, 2]
max_tokens = 24
[prompts]
classes = ["code", "list", "prose"]
per_class = 4
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "runs.db"))
    with closing(RunStore()) as opened:
        yield opened


@pytest.fixture
def plan(tmp_path):
    target = write_tiny_llama(tmp_path / "target")
    return parse_plan(PLAN.format(target=str(target)))


@pytest.mark.filterwarnings("default")
def test_two_workers_measure_each_cell_once_though_one_is_killed(store, plan, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
    ):
        monkeypatch.setenv("SPECDEC_SCHEDULER", cluster.scheduler_address)
        runner = Session(store, plan, "").runner()
        assert isinstance(runner, ClusterRunner)
        progress = []
        with closing(runner.run()) as cells:
            for one in cells:
                if not progress:
                    assert len({nanny.pid for nanny in cluster.workers.values()}) == 2
                    os.kill(cluster.workers[0].pid, signal.SIGKILL)
                progress.append(one)
    assert [one.failure for one in progress] == [None] * plan.num_cells
    assert progress[-1].done == plan.num_cells == 36
    assert progress[-1].left_s == 0
    (sweep,) = list_sweeps(store)
    kept = [one.key for one in measured_cells(store, sweep.id)]
    assert sorted(kept) == sorted(cell.key for cell in plan.cells)
    assert store.count(RunFilter(sweep=sweep.id)) == 36
    assert runner.results.keys == set(kept)
    assert Session(store, plan, "").runner().cells() == []


def test_a_block_that_begins_again_leaves_out_what_is_kept(store, plan):
    Session(store, plan, "")
    keys = [cell.key for cell in plan.cells[:3]]
    assert measure_block(write_plan(plan), keys[:2]) == {}
    assert measure_block(write_plan(plan), keys) == {}
    (sweep,) = list_sweeps(store)
    assert sweep.num_cells == 3
    assert store.count(RunFilter(sweep=sweep.id)) == 3


def test_a_worker_with_another_store_says_so(store, plan):
    with pytest.raises(StoreError, match="every worker needs the same SPECDEC_DB"):
        measure_block(write_plan(plan) + "\n", [plan.cells[0].key])


@pytest.mark.filterwarnings("default")
def test_a_cluster_that_does_not_answer_is_said(store, plan, monkeypatch):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    monkeypatch.setenv("SPECDEC_SCHEDULER", "tcp://127.0.0.1:9")
    runner = Session(store, plan, "").runner()
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(SettingsError, match="names no cluster that answers"),
    ):
        next(runner.run())
