"""The live page as a visitor uses it, without a browser."""

from __future__ import annotations

import html
import json
import re
import threading

import pytest

from specdec.runs import worth
from specdec.settings import RunConfig
from specdec.ui import loaders
from specdec.ui.live.presets import EXAMPLE_PROMPTS, LIVE, MOTIONS, RECIPES, SLOW, STEP
from specdec.ui.live.recipes import key_of
from specdec.view import steps
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
    assert page.number_input(key="max_tokens").disabled
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


def test_the_time_before_the_first_token_is_told_step_by_step(page, model, monkeypatch):
    monkeypatch.setattr(steps, "_SHORTEST_S", 0.0)
    model.gate = threading.Semaphore(10)
    live = generate(page)
    wait_for(lambda: model.gate._value == 0)
    page.run()
    assert re.search(r"✓ read the prompt \d\.\d s.*time plain decoding: .* so far", check(page))
    model.gate.release(10_000)
    finish(page)
    said = check(page).replace("\\", "")
    assert " s so far" not in said
    assert re.search(r"Before the first token: ✓ .*✓ time plain decoding", said)
    assert live.steps.has_ended


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
    assert "The prompt is empty" in check(page)
    assert "live" not in page.session_state
    page.text_area(key="prompt").set_value("the tin").run()
    page.button(key="generate").click().run()
    finish(page)
    assert "The prompt is empty" not in check(page)


def _no_prompt(page):
    page.text_area(key="prompt").set_value("  ").run()
    return "The prompt is empty"


def _no_model(page):
    page.selectbox(key="target").set_value("smollm2-135m").run()
    return "There is no model smollm2-135m"


@pytest.mark.parametrize("spoil", [_no_prompt, _no_model])
def test_what_cannot_begin_leaves_the_finished_run_on_the_stage(page, spoil):
    generate(page)
    shown = finish(page)
    sentence = spoil(page)
    page.button(key="generate").click().run()
    live = page.session_state.live
    live.join(20)
    page.run()
    page.run()
    said = check(page)
    assert sentence in said.replace("\\", "")
    assert page.session_state.live is shown
    assert "drafted tokens accepted" in said
    assert len(page.session_state.show.view.rounds) == len(shown.run.rounds)


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


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("MAX_TOKENS", "96", "max_tokens", 96),
        ("MAX_TOKENS", "5", "max_tokens", 5),
        ("MAX_TOKENS", "4000", "max_tokens", 4000),
        ("SPECDEC_RTT_MS", "7.5", "rtt_ms", 7.5),
        ("SPECDEC_RTT_MS", "50", "rtt_ms", 50.0),
        ("SPECDEC_TOP_K", "40", "top_k", 40),
        ("SPECDEC_TOP_P", "0.03", "top_p", 0.03),
        ("TEMPERATURE", "0.333", "temperature", 0.333),
        ("SPECDEC_SEED", "5000000000", "seed", 5_000_000_000),
        ("SPECULATION_K", "0", "num_draft_tokens", 0),
        ("SPECULATION_K", "0", "draft", "none"),
        ("SPECULATION_TREE", "4-1", "tree", "4-1"),
    ],
)
def test_every_setting_of_the_environment_reaches_the_run_as_it_is(
    page, monkeypatch, variable, text, name, value
):
    monkeypatch.setenv("MAX_TOKENS", "8")
    monkeypatch.setenv(variable, text)
    live = generate(page)
    assert getattr(live.config, name) == value
    live.stop()


def test_jitter_of_the_environment_goes_with_its_link(page, monkeypatch):
    monkeypatch.setenv("SPECDEC_RTT_MS", "1")
    monkeypatch.setenv("SPECDEC_JITTER_MS", "0.5")
    monkeypatch.setenv("MAX_TOKENS", "8")
    live = generate(page)
    assert (live.config.rtt_ms, live.config.jitter_ms) == (1.0, 0.5)


def test_a_target_that_was_only_looked_at_leaves_the_draft_as_it_was(page):
    page.run()
    page.selectbox(key="draft").set_value("suffix").run()
    for other in ("smollm2-135m", "@cerebras"):
        page.selectbox(key="target").set_value(other).run()
        assert page.selectbox(key="draft").value != "suffix"
        assert page.selectbox(key="link").disabled is (other == "@cerebras")
        page.selectbox(key="target").set_value("toy").run()
        assert page.selectbox(key="draft").value == "suffix"
    check(page)


def test_a_name_that_is_typed_in_is_taken_and_stands_in_no_address(page):
    page.session_state["target"] = "some/where"
    page.run()
    assert page.selectbox(key="target").value == "some/where"
    assert "target" not in page.query_params
    assert "target" not in page.session_state.live_address
    check(page)


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
    assert not page.selectbox(key="target").proto.accept_new_options
    assert not page.selectbox(key="draft").proto.accept_new_options
    monkeypatch.setenv("SPECDEC_MODELS", "")
    monkeypatch.setenv("SPECDEC_TARGETS", "")
    assert "offers no target" in check(page.run())


@pytest.mark.parametrize("name", ["Explain", "Prose", "List", "Summary"])
def test_an_example_fills_the_prompt(page, name):
    page.run()
    page.button_group(key="example").set_value(name).run()
    check(page)
    assert page.text_area(key="prompt").value == EXAMPLE_PROMPTS[name]


def marked(at):
    """Return the recipes that the page says it is set to."""
    return [name for name in RECIPES if at.button(key=key_of(name)).icon.endswith("_checked:")]


def set_values(at):
    widgets = (at.slider(key="k"), at.slider(key="temperature"), at.selectbox(key="link"))
    return [one.value for one in (*widgets, at.selectbox(key="policy"), at.text_area(key="prompt"))]


PAYS = [6, 0.0, "edge to cloud (50 ms)", "adaptive", EXAMPLE_PROMPTS["Code"]]
DOES_NOT = [8, 1.0, "this machine (0 ms)", "fixed", EXAMPLE_PROMPTS["Prose"]]


def test_the_page_opens_on_the_first_recipe_and_each_says_what_to_look_at(first_visit):
    said = check(first_visit.run())
    assert all(recipe.look_at in said for recipe in RECIPES.values())
    assert (marked(first_visit), set_values(first_visit)) == (["Where it pays"], PAYS)
    first_visit.button(key=key_of("Where it does not")).click().run()
    assert (marked(first_visit), set_values(first_visit)) == (["Where it does not"], DOES_NOT)
    first_visit.slider(key="k").set_value(7).run()
    assert marked(first_visit) == []
    first_visit.selectbox(key="draft").set_value("none").run()
    first_visit.button(key=key_of("Where it pays")).click().run()
    assert (marked(first_visit), set_values(first_visit)) == (["Where it pays"], PAYS)
    check(first_visit)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"TEMPERATURE": "0.3"}, [3, 0.3, "this machine (0 ms)", "fixed"]),
        ({"SPECDEC_RTT_MS": "10"}, [3, 0.7, "same city (10 ms)", "fixed"]),
        ({"TARGET_MODEL": "@cerebras"}, [3, 0.7, "this machine (0 ms)", "fixed"]),
        ({"MAX_TOKENS": "32"}, PAYS[:4]),
    ],
)
def test_what_the_environment_asks_for_is_what_the_page_opens_on(
    first_visit, monkeypatch, names, wanted
):
    for name, text in names.items():
        monkeypatch.setenv(name, text)
    first_visit.run()
    assert set_values(first_visit)[:4] == wanted


def test_an_address_that_sets_something_is_heard(first_visit):
    first_visit.query_params.update(k="4", temperature="1")
    first_visit.run()
    assert set_values(first_visit) == [4, 1.0, *PAYS[2:]]


def test_the_predicted_best_k_is_one_press_away(page):
    live = generate(page)
    finish(page)
    run = live.run
    best = worth.forecast(run.rounds, run.summary, run.baseline).best
    if best == run.config.num_draft_tokens:
        assert "apply_best" not in [button.key for button in page.button]
        return
    page.button(key="apply_best").click().run()
    check(page)
    if best:
        assert page.slider(key="k").value == best
    else:
        assert page.selectbox(key="draft").value == "none"


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


def shown_rounds(at):
    return at.session_state.show.view.rounds


def test_the_first_run_goes_by_slowly_says_so_and_is_skipped_by_one_press(page):
    page.query_params.clear()
    live = generate(page)
    assert page.session_state.motion == SLOW
    live.join(20)
    page.run()
    said = check(page)
    assert "first run, in slow motion; the run itself is over" in said
    assert shown_rounds(page) != list(live.run.rounds)
    skip = page.button(key="stop")
    assert (skip.label, skip.disabled) == ("Skip to the end", False)
    skip.click().run()
    page.run()
    assert shown_rounds(page) == list(live.run.rounds)
    assert "slow motion" not in check(page)
    page.button(key="generate").click().run()
    assert page.session_state.motion == LIVE
    second = finish(page)
    assert second is not live
    assert shown_rounds(page) == list(second.run.rounds)


@pytest.mark.parametrize("chosen", MOTIONS)
def test_a_motion_that_was_chosen_is_that_of_the_first_run_and_of_the_next(page, chosen):
    page.query_params.clear()
    page.run()
    page.button_group(key="motion").set_value(STEP).run()
    page.button_group(key="motion").set_value(chosen).run()
    assert page.session_state.live_address["motion"] == chosen
    for _ in range(2):
        generate(page).join(20)
        page.run()
        assert page.session_state.motion == chosen
        assert "first run" not in check(page)
        if not page.button(key="stop").disabled:
            page.button(key="stop").click().run()


def test_a_motion_in_the_address_wins_and_an_unknown_one_is_none(page):
    page.query_params["motion"] = STEP
    generate(page)
    assert page.session_state.motion == STEP
    assert page.session_state.live_address["motion"] == STEP


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
