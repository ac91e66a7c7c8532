"""The lab page in AppTest, over a tiny target that is really measured."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from specdec.lab.plan_file import parse_plan
from specdec.lab.results import Measured
from specdec.saved.rows import RunFilter
from specdec.saved.sweeps import list_sweeps, measured_cells
from specdec.ui import loaders
from tests.made_runs import tiny_run
from tests.models.tiny import write_tiny_llama

APP = Path(__file__).parents[2] / "streamlit_app.py"
HOSTILE = "<script>alert(1)</script> \"\"\" '''\\"
PLAN = """
name = "<b>hostile</b> **name** $x$"
target = {target!r}
backend = "portable"
stops_early = false
drafts = ["ngram"]
k = [1, 2]
rtt_ms = [0.0, 2.0]
max_tokens = 6
[prompts]
classes = ["code", "list"]
per_class = {per_class}
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return str(write_tiny_llama(tmp_path_factory.mktemp("target")))


@pytest.fixture
def page(store, target):
    at = AppTest.from_file(str(APP), default_timeout=30).switch_page("pages/2_Lab.py")
    at.session_state.lab_plan_text = PLAN.format(target=target, per_class=3)
    yield at
    current = loaders.sweep_desk().current
    if current is not None:
        current.stop()
        current.join(10)


def words_of(at):
    assert not at.exception
    shown = (*at.markdown, *at.caption, *at.error, *at.info, *at.warning)
    return " ".join(element.value for element in shown).replace("\\", "")


def press(at, key):
    at.button(key=key).click().run()
    return words_of(at)


def await_sweep():
    current = loaders.sweep_desk().current
    current.join(30)
    assert current.error is None
    return current


def test_a_plan_is_measured_and_shown(page, store, target):
    words = words_of(page.run())
    assert "36 cells: 6 prompts (2 classes) × 3 arms × temperature 0 × round trip 0, 2 ms" in words
    assert "36 are left" in words
    assert page.button(key="lab_stop").disabled
    press(page, "lab_run")
    assert not await_sweep().failures
    words = words_of(page.run())
    assert "All that is to be run is measured" in words
    assert page.button(key="lab_run").disabled
    (sweep,) = list_sweeps(store)
    assert sweep.num_cells == 36
    assert "hostile" in sweep.name
    assert all(Measured.of_cell(one).totals for one in measured_cells(store, sweep.id))


def test_results_are_advice_maps_and_prompts_that_play(page, store):
    page.run()
    press(page, "lab_run")
    await_sweep()
    words = words_of(page.run())
    assert "Recommended." in words
    assert "Speed by K and round trip, at temperature 0" in words
    assert "Speed against waste" in words
    assert len(page.get("vega_lite_chart")) == 3
    assert any("DRAFT_MODEL=" in one.value for one in page.code)
    table = page.dataframe[0]
    assert {"most", "least"} == set(table.value["Helped"])
    page.session_state[table.key] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.run()
    assert page.button(key="replay_play")
    page.selectbox(key="lab_kind").set_value("code").run()
    page.selectbox(key="lab_rtt").set_value(2.0).run()
    assert "Recommended." in words_of(page)


def test_stop_keeps_what_is_measured_and_the_rest_follows(page, store, target):
    page.session_state.lab_plan_text = PLAN.format(target=target, per_class=8)
    page.run()
    press(page, "lab_run")
    sweep = loaders.sweep_desk().current
    end_s = time.monotonic() + 20
    while len(sweep.measured) < 4 and time.monotonic() < end_s:
        time.sleep(0.01)
    press(page, "lab_stop")
    assert not sweep.is_alive
    num_kept = list_sweeps(store)[0].num_cells
    assert 4 <= num_kept < 96
    assert f"{96 - num_kept} are left" in words_of(page.run())
    assert page.button(key="lab_run").label == "Go on"
    press(page, "lab_run")
    await_sweep()
    assert list_sweeps(store)[0].num_cells == 96


def test_a_deleted_sweep_is_gone_with_its_runs_and_comes_back_with_undo(page, store):
    page.run()
    assert not [one for one in page.button if one.key == "lab_delete"]
    press(page, "lab_run")
    await_sweep()
    words = words_of(page.run())
    assert "all that it measured: 36 runs" in words
    words = press(page, "lab_delete")
    assert list_sweeps(store) == []
    assert "36 runs deleted" in words
    assert "36 are left" in words
    assert "Nothing of this plan is measured yet" in words
    assert page.button(key="lab_run").label == "Run"
    words = press(page, "undo")
    assert list_sweeps(store)[0].num_cells == 36
    assert "All that is to be run is measured" in words
    assert "deleted" not in words
    page.selectbox(key="lab_sweep").set_value(1).run()
    assert "Nothing of this plan" in press(page, "lab_delete")
    press(page, "lab_run")
    await_sweep()
    assert "All that is to be run is measured" in words_of(page.run())
    assert list_sweeps(store)[0].num_cells == store.count(RunFilter(sweep=1)) == 36
    assert store.last_deleted() == []


def test_a_second_sweep_waits_for_the_first(page, store, target):
    page.session_state.lab_plan_text = PLAN.format(target=target, per_class=8)
    page.run()
    press(page, "lab_run")
    other = AppTest.from_file(str(APP), default_timeout=30).switch_page("pages/2_Lab.py")
    other.session_state.lab_plan_text = PLAN.format(target=target, per_class=1)
    other.run()
    assert other.button(key="lab_run").disabled
    press(other, "lab_show")
    assert "96 cells" in words_of(other)
    press(other, "lab_stop")
    assert not loaders.sweep_desk().current.is_alive


def test_what_is_wrong_with_a_plan_is_said_and_the_choices_stand_still(page):
    page.session_state.lab_plan_text = "k = [99]"
    assert "between 0 and 16" in words_of(page.run())
    assert page.selectbox(key="lab_target").disabled
    assert not [one for one in page.button if one.key == "lab_run"]
    page.text_area(key="lab_text_box").set_value("[prompts]\nfile = '/etc/passwd'").run()
    assert "upload it" in words_of(page)


def test_a_choice_writes_the_plan(page):
    page.run()
    page.multiselect(key="lab_k").set_value(["1", "2", "4"]).run()
    page.toggle(key="lab_predicts").set_value(True).run()
    plan = parse_plan(page.text_area(key="lab_text_box").value)
    assert {arm.num_draft_tokens for arm in plan.arms} == {0, 1, 2, 4}
    assert plan.predicts
    page.multiselect(key="lab_temperatures").set_value([]).run()
    assert "Choose at least one number" in words_of(page)
    assert page.multiselect(key="lab_temperatures").value == ["0"]


def test_the_prompts_of_the_history_are_taken(page, store, tmp_path):
    page.run()
    press(page, "lab_saved_prompts")
    assert "holds no prompts" in words_of(page)
    for prompt in ("one", "two", "one", HOSTILE):
        store.save(replace(tiny_run(tmp_path), prompt=prompt))
    press(page, "lab_saved_prompts")
    page.multiselect(key="lab_classes").set_value([]).run()
    assert "3 prompts (1 class)" in words_of(page)


def test_own_prompts_are_opened_and_kept_with_the_sweep(page, store):
    page.run()
    data = b'{"prompt": "one", "class": "mine"}\n{"prompt": "two", "class": "mine"}\n'
    page.file_uploader[0].set_value([("own.jsonl", data, "application/json")]).run()
    page.multiselect(key="lab_classes").set_value([]).run()
    assert "2 prompts (1 class)" in words_of(page)
    assert 'file = "own.jsonl"' in page.text_area(key="lab_text_box").value
    press(page, "lab_run")
    await_sweep()
    (sweep,) = list_sweeps(store)
    assert {prompt.text for prompt in parse_plan(sweep.plan).prompts} == {"one", "two"}
    fresh = AppTest.from_file(str(APP), default_timeout=30).switch_page("pages/2_Lab.py").run()
    fresh.selectbox(key="lab_sweep").set_value(sweep.id).run()
    assert "All that is to be run is measured" in words_of(fresh)
