"""The study of attention, on the page of a saved run whose target is at hand, or is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings, generate
from specdec.live.shelf import ModelShelf
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.pair import LoadedModel, Pair
from specdec.runs.recorder import RunRecorder
from specdec.runs.run import ModelInfo
from specdec.sampling import Sampler
from specdec.settings import RunConfig
from specdec.targets.local import LocalTarget
from specdec.ui import loaders
from specdec.ui.study import ATTENTION
from tests.live.toys import SkippingToy
from tests.models.tiny import write_tiny_llama, write_tiny_tokenizer

pytestmark = pytest.mark.usefixtures("store")

APP = Path(__file__).parents[2] / "streamlit_app.py"
DIGEST = "1" * 64


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = PortableModel.load(write_tiny_llama(folder, layers=3, seed=5), "tiny")
    write_tiny_tokenizer(folder, vocab_size=model.vocab_size)
    return LoadedModel(model, Tokenizer.load(folder), digest=DIGEST)


@pytest.fixture(scope="module")
def run(loaded):
    """Return a run of real weights with trees of 3 × 2 × 1."""
    drafter = TreeDrafter(loaded.model.without_middle_layers(), "3-2-1")
    pair = Pair(loaded.tokenizer, LocalTarget(loaded.model), drafter, {"tiny": DIGEST})
    prompt = loaded.tokenizer.encode("the tin & the ant")
    config = RunConfig(target="tiny", draft="layer-skip", tree="3-2-1", num_draft_tokens=3)
    recorder = RunRecorder.start(config, "the tin & the ant", prompt, pair)
    settings = RoundSettings(drafter, 3, Sampler(1.0))
    for event in generate(prompt, pair.target, settings, max_tokens=16, seed=1):
        recorder.add(event)
    return recorder.run()


def shown(store, run, monkeypatch, model):
    """Return the page of the one run in the store, with a shelf that opens `model`."""
    shelf = ModelShelf(lambda name, place, progress=None: model)
    monkeypatch.setattr(loaders, "model_shelf", lambda: shelf)
    store.save(run)
    page = AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/1_History.py")
    page.run()
    lines = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.session_state[page.dataframe[0].key] = lines
    return page.run()


def tab_of(page):
    assert not page.exception
    return next(tab for tab in page.tabs if tab.label == ATTENTION)


def html_of(page):
    bodies = [block.proto.body for block in tab_of(page).get("html")]
    return [body for body in bodies if body.startswith("<div")]


def test_a_round_is_read_again_when_asked_for_and_its_tokens_shaded(
    store, run, loaded, monkeypatch
):
    page = shown(store, run, monkeypatch, loaded)
    assert not html_of(page)
    page.number_input(key="attention_round").set_value(2).run()
    page.button(key="look").click().run()
    before, tree = html_of(page)
    emitted = len(run.rounds[0].emitted)
    assert before.count("<span") == len(run.prompt_ids) + emitted
    assert tree.count("<span") == run.rounds[1].num_drafted
    assert "not seen" in tree
    assert len(tab_of(page).get("vega_lite_chart")) == 1
    page.number_input(key="attention_layer").set_value(3)
    page.selectbox(key="attention_head").select("maximum").run()
    assert html_of(page)[0] != before
    page.number_input(key="attention_round").set_value(1).run()
    assert not html_of(page)  # another round was not asked for


def test_other_weights_of_that_name_are_refused(store, run, loaded, monkeypatch):
    other = replace(run, target=ModelInfo("tiny", "2" * 64))
    page = shown(store, other, monkeypatch, loaded)
    page.button(key="look").click().run()
    assert "not those of this run" in tab_of(page).error[0].value
    assert not html_of(page)


def test_a_target_that_cannot_show_it_says_so_in_a_sentence(store, run, loaded, monkeypatch):
    toy = LoadedModel(SkippingToy(), loaded.tokenizer, digest=DIGEST)
    page = shown(store, run, monkeypatch, toy)
    page.button(key="look").click().run()
    assert "A toy pays no attention" in tab_of(page).error[0].value
    page.run()
    assert "A toy pays no attention" in tab_of(page).info[0].value  # known by now
    assert ATTENTION in [tab.label for tab in page.tabs]


def test_a_target_behind_a_server_is_not_asked(store, run, monkeypatch):
    config = replace(run.config, target="@there")
    page = shown(store, replace(run, config=config), monkeypatch, None)
    assert "behind a server" in tab_of(page).info[0].value
