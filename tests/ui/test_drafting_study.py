"""The study of who drafted how far, on the page of a saved run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from specdec.ui.drafting import NUM_TOLD
from specdec.ui.study import DRAFTING
from tests.made_runs import tiny_run

pytestmark = pytest.mark.usefixtures("store")

APP = Path(__file__).parents[2] / "streamlit_app.py"
HOSTILE = "<script>alert(1)</script> **b** $x$ :red[y]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=60)


def shown(store, run):
    """Return the page of the one run in the store, and the tab of this study if it is there."""
    store.save(run)
    page = AppTest.from_file(str(APP), default_timeout=30).switch_page("pages/1_History.py")
    page.run()
    lines = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.session_state[page.dataframe[0].key] = lines
    page.run()
    assert not page.exception
    return next((tab for tab in page.tabs if tab.label == DRAFTING), None)


def test_a_run_of_one_drafter_and_a_fixed_k_has_no_such_study(store, run):
    assert shown(store, run) is None


def test_the_last_moves_are_told_below_the_chart_as_plain_text(store, run):
    rounds = tuple(
        replace(r, policy="hf", reason=f"{HOSTILE} {r.round}" if r.round else "")
        for r in run.rounds
    )
    assert len(rounds) > NUM_TOLD + 1
    tab = shown(store, replace(run, rounds=rounds))
    said = [element.value for element in tab.markdown]
    assert "K over the rounds" in said[0]
    assert f"the last {NUM_TOLD} of {len(rounds) - 1}" in said[1]
    lines = said[2].splitlines()
    assert len(lines) == NUM_TOLD
    assert lines[-1].startswith(f"- Round {len(rounds)}: \\<script\\>")
    assert len(tab.get("vega_lite_chart")) == 1


def test_a_policy_that_moved_nothing_says_so(store, run):
    tab = shown(store, replace(run, rounds=tuple(replace(r, policy="hf") for r in run.rounds)))
    assert "hf policy moved nothing" in " ".join(element.value for element in tab.caption)


def test_members_are_shown_with_their_worth_where_several_drafted(store, run):
    def named(result):
        names = ("first", HOSTILE)
        told = [replace(one, drafted_by=names[i % 2]) for i, one in enumerate(result.candidates)]
        return replace(result, candidates=tuple(told))

    rounds = tuple(map(named, run.rounds))
    tab = shown(store, replace(run, rounds=rounds))
    [table] = [element.value for element in tab.dataframe]
    assert table["name"].tolist() == ["first", HOSTILE]
    assert table["num_drafted"].sum() == sum(r.num_drafted for r in rounds)
    assert not tab.get("vega_lite_chart")
    assert "the target itself gave" in " ".join(element.value for element in tab.caption)
