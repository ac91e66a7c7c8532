"""The live page as a visitor uses it, without a browser."""

from __future__ import annotations

import html
import json
import re
import threading

import pytest

from specdec.settings import RunConfig
from specdec.ui import loaders
from tests.live.toys import WritingToy, frames_of, toy_shelf, wait_for


def check(at):
    """The script ran through; return the words on the page."""
    assert not at.exception
    bodies = [html.unescape(block.proto.body) for block in at.get("html")]
    return " ".join([*(e.value for e in (*at.markdown, *at.caption, *at.error)), *bodies])


def generate(at):
    at.run()
    at.button(key="generate").click().run()
    check(at)
    return at.session_state.live


def finish(at):
    """Let a run that goes on come to its end, on the page too."""
    live = at.session_state.live
    live.join(20)
    at.run()
    at.run()
    return live


def tree(at):
    return at.get("component_instance")


def test_before_the_first_run_the_page_explains_itself(page):
    said = check(page.run())
    assert "The draft proposes" in said
    assert page.button(key="stop").disabled
    assert page.button(key="replay").disabled
    assert not page.button(key="generate").disabled
    assert page.text_area(key="prompt").value


def test_a_run_shows_tree_text_charts_and_totals(page):
    generate(page)
    live = finish(page)
    said = check(page)
    assert "Finished" in said
    assert "drafted tokens accepted" in said
    assert "the median of 32 calls, measured before and after this run" in said
    assert len(page.get("vega_lite_chart")) == 9
    nodes = json.loads(json.loads(tree(page)[-1].proto.json_args)["data"])["nodes"]
    drawn = {node["id"] for node in nodes}
    for result in live.run.rounds:
        assert {f"r{result.round}c{i}" for i in range(result.num_drafted)} <= drawn
    assert page.button(key="stop").disabled
    assert not page.button(key="replay").disabled


def test_while_a_run_goes_on_it_can_be_stopped_and_keeps_its_tokens(page, model):
    model.gate = threading.Semaphore(30)
    live = generate(page)
    wait_for(lambda: len(frames_of(live)) > 4 and model.gate._value == 0)
    page.run()
    said = check(page)
    assert "Drafting" in said or "Verifying" in said
    assert not page.button(key="stop").disabled
    assert page.button(key="generate").disabled
    assert page.slider(key="max_tokens").disabled
    assert not page.slider(key="k").disabled
    assert len(tree(page)) == 1
    page.button(key="stop").click()
    model.gate.release(1000)
    page.run()
    finish(page)
    said = check(page)
    assert "Stopped" in said
    assert "you stopped it" in said
    assert live.run.rounds


def test_settings_changed_in_mid_run_take_effect(page, model):
    model.gate = threading.Semaphore(30)
    live = generate(page)
    wait_for(lambda: len(frames_of(live)) > 4 and model.gate._value == 0)
    page.slider(key="k").set_value(9).run()
    check(page)
    model.gate.release(10_000)
    finish(page)
    assert {r.num_draft_tokens for r in live.run.rounds} == {RunConfig().num_draft_tokens, 9}


def test_an_error_is_shown_with_the_next_step(page, monkeypatch):
    monkeypatch.setenv("TARGET_MODEL", "broken")
    generate(page)
    finish(page)
    said = check(page)
    assert "Failed" in said
    assert "There is no model broken; choose another" in said.replace("\\", "")
    assert not page.button(key="generate").disabled


def test_an_empty_prompt_is_refused_with_a_sentence(page):
    page.run()
    page.text_area(key="prompt").set_value("  ").run()
    page.button(key="generate").click().run()
    finish(page)
    assert "The prompt is empty" in check(page)


def test_a_model_that_fails_half_way_leaves_its_rounds_on_the_page(page, model):
    model.fail_after = 60
    generate(page)
    live = finish(page)
    said = check(page).replace("\\", "")
    assert "The toy broke; wind it up again" in said
    assert live.run.rounds
    assert tree(page)


def test_none_is_plain_decoding(page):
    page.run()
    page.selectbox(key="draft").set_value("none").run()
    assert page.slider(key="k").disabled
    page.button(key="generate").click().run()
    live = finish(page)
    assert "nothing was drafted" in check(page)
    assert all(not r.candidates for r in live.run.rounds)


def test_settings_from_the_environment_are_the_defaults(page, monkeypatch):
    monkeypatch.setenv("SPECULATION_K", "7")
    monkeypatch.setenv("TEMPERATURE", "1.2")
    page.run()
    assert (page.slider(key="k").value, page.slider(key="temperature").value) == (7, 1.2)


def test_a_bad_setting_in_the_environment_is_one_sentence(page, monkeypatch):
    monkeypatch.setenv("SPECULATION_K", "many")
    assert "SPECULATION_K must be a whole number" in check(page.run()).replace("\\", "")


def test_a_link_chooses_no_server(page):
    page.query_params["target"] = "@cerebras"
    check(page.run())
    assert page.selectbox(key="target").value == "toy"
    assert "target" not in page.query_params


def test_a_shared_machine_offers_what_its_owner_lists(page, monkeypatch):
    monkeypatch.setenv("SPECDEC_MODELS", "toy")
    monkeypatch.setenv("SPECDEC_TARGETS", "toy")
    check(page.run())
    assert page.selectbox(key="target").options == ["toy"]
    assert "another model …" not in page.selectbox(key="draft").options
    monkeypatch.setenv("SPECDEC_MODELS", "")
    monkeypatch.setenv("SPECDEC_TARGETS", "")
    assert "offers no target" in check(page.run())


@pytest.mark.parametrize("name", ["Code", "Prose", "List", "Summary"])
def test_an_example_fills_the_prompt(page, name):
    page.run()
    before = page.text_area(key="prompt").value
    page.button_group(key="example").set_value(name).run()
    check(page)
    assert page.text_area(key="prompt").value != before


def test_a_replay_shows_the_run_again_from_its_beginning(page):
    generate(page)
    live = finish(page)
    page.button(key="replay").click().run()
    check(page)
    assert page.session_state.show.view.rounds != list(live.run.rounds)
    page.button(key="stop").click().run()
    page.run()
    assert page.session_state.show.view.rounds == list(live.run.rounds)
    assert "Finished" in check(page)


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> **b** $x$ :red[y]"


def test_what_a_model_writes_is_never_markup(page, monkeypatch, tmp_path):
    tokenizer = toy_shelf(tmp_path).request("toy", "auto").result(10).tokenizer
    shelf = toy_shelf(tmp_path, WritingToy(tokenizer.encode(HOSTILE)))
    monkeypatch.setattr(loaders, "model_shelf", lambda: shelf)
    generate(page)
    live = finish(page)
    assert "<script>alert(1)</script>" in live.run.text
    page.number_input(key="round").set_value(1).run()
    sentences = [element.value for element in (*page.markdown, *page.caption)]
    assert any("\\<" in sentence for sentence in sentences)
    assert not [sentence for sentence in sentences if "<" in sentence.replace("\\<", "")]
    bodies = " ".join(block.proto.body for block in page.get("html"))
    assert "<script>alert(1)</script>" in html.unescape(re.sub(r"<[^>]*>", "", bodies))
    assert "<script" not in bodies
    assert "<img" not in bodies
    graph = tree(page)[-1]
    nodes = json.loads(json.loads(graph.proto.json_args)["data"])["nodes"]
    assert any("<" in node["label"] for node in nodes)
    assert not any("title" in node for node in nodes)  # which the component takes for HTML
