"""The history page in AppTest, over a store with runs that the engine made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from streamlit.testing.v1 import AppTest

from specdec.metrics import Baseline
from specdec.saved.exports import EXPORTS
from specdec.saved.trace import dump_trace
from specdec.saved.vllm_summary import vllm_summary
from specdec.ui.history import list as history_list
from specdec.view.facts import visible
from tests.made_runs import record, tiny_events, tiny_run

pytestmark = pytest.mark.usefixtures("store")

APP = Path(__file__).parents[2] / "streamlit_app.py"
HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> **b** $x$ :red[y]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture
def page():
    return AppTest.from_file(str(APP), default_timeout=30).switch_page("pages/1_History.py")


def check(at):
    """The script ran through; return the words on the page, as they are read."""
    assert not at.exception
    shown = (*at.markdown, *at.caption, *at.error, *at.success, *at.info, *at.warning)
    return " ".join(element.value for element in shown).replace("\\", "")


def runs_table(at):
    return at.dataframe[0]


def select(at, *rows):
    """Select lines of the list, as a click does."""
    key = runs_table(at).key
    at.session_state[key] = {"selection": {"rows": list(rows), "columns": [], "cells": []}}
    at.run()
    return check(at)


def upload(at, name, data):
    at.file_uploader[0].set_value([(name, data, "application/json")])
    at.button(key="import_submit").click().run()
    return check(at)


def numbers(at):
    return list(runs_table(at).value["run"]) if at.dataframe else []


def html_of(at):
    return " ".join(block.proto.body for block in at.get("html"))


def test_bad_rows_leave_the_rest_of_the_page_standing(page, store, folder):
    good, tags, body = (store.save(tiny_run(folder, seed=seed)) for seed in range(3))
    with store._database.writing() as connection:
        for statement in (
            f"UPDATE specdec_runs SET tags = 'no JSON' WHERE id = {tags}",
            f"UPDATE specdec_traces SET body = 'a text' WHERE run_id = {body}",
        ):
            connection.execute(sa.text(statement))
    assert "1 run left out of this list" in check(page.run())
    assert numbers(page) == [body, good]
    assert "is damaged and cannot be read; delete it" in select(page, 0)
    page.button(key="delete_damaged").click().run()
    assert "left out" not in check(page)
    assert numbers(page) == [body, good]


def test_an_empty_store_is_explained(page):
    assert "Nothing is saved yet" in check(page.run())
    assert not page.dataframe


def test_a_store_that_cannot_be_opened_is_one_sentence(page, monkeypatch, tmp_path):
    (tmp_path / "no.db").write_text("this is no database at all, but a text of some length")
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "no.db"))
    said = check(page.run())
    assert "cannot be opened" in said
    assert len(page.error) == 1


def test_one_run_is_shown_with_its_figures_files_and_panels(page, store, folder):
    run = tiny_run(folder)
    store.save(run)
    assert "Select a run" in check(page.run())
    said = select(page, 0)
    assert "drafted tokens accepted" in said
    assert {metric.label for metric in page.metric} >= {"Tokens per second", "Tokens written"}
    assert len(page.get("download_button")) == len(EXPORTS)
    assert page.get("component_instance")
    assert len(page.get("vega_lite_chart")) == 8


def test_a_saved_run_is_studied_like_one_that_has_just_ended(page, store, folder):
    run = tiny_run(folder, num_tokens=60)
    store.save(run)
    store.save(tiny_run(folder, seed=5))
    page.run()
    said = select(page, 1)
    assert [tab.label for tab in page.tabs] == [
        "The whole tree, round by round",
        "Attention",
        "Is it worth it here?",
        "Losslessness",
    ]
    assert "one call of the target gave" in said
    assert "of the drafted tokens passed" in said
    number = page.number_input(key="round")
    assert number.max == len(run.rounds)
    number.set_value(4).run()
    check(page)
    told = [*run.rounds[3].candidates, run.rounds[3].final]
    [table] = [one.value for one in page.dataframe if "verdict" in one.value]
    assert table["token"].tolist() == [visible(run.token_text(one.token_id)) for one in told]
    nodes = json.loads(json.loads(page.get("component_instance")[-1].proto.json_args)["data"])
    assert {f"r{one.round}f" for one in run.rounds} <= {node["id"] for node in nodes["nodes"]}
    select(page, 0)
    assert page.number_input(key="round").max != len(run.rounds)


def test_the_round_that_is_told_is_the_last_one_that_is_shown(page, store, folder):
    run = tiny_run(folder, num_tokens=60)
    store.save(run)
    page.run()
    select(page, 0)
    page.slider(key="replay_round").set_value(3).run()
    assert page.number_input(key="round").value == 3
    page.button(key="replay_forward").click().run()
    assert page.number_input(key="round").value == 4
    page.slider(key="replay_round").set_value(0).run()
    check(page)
    assert page.number_input(key="round").value == 1


def test_what_a_saved_run_cannot_tell_is_said(page, store, folder):
    run = tiny_run(folder)
    greedy = tuple(replace(one, temperature=0.0) for one in run.rounds)
    number = store.save(replace(run, rounds=greedy, baseline=None))
    page.run()
    said = select(page, 0)
    assert "No baseline was measured" in said
    page.slider(key=f"what_if_k_run_{number}").set_value(0).run()
    said = check(page)
    assert "how this compares with plain decoding cannot be said" in said
    metrics = {one.label: one.value for one in page.metric}
    assert metrics["Target calls"] == str(run.summary.num_tokens)
    assert "Times this run" in metrics
    assert "Times plain" not in metrics
    assert "takes the target itself" in said


def test_the_list_is_newest_first_and_sorts_in_the_store(page, store, folder):
    for tokens, day in ((8, 1), (30, 2), (16, 3)):
        run = replace(
            tiny_run(folder, num_tokens=tokens), started_at=f"2026-01-0{day}T12:00:00.000000+00:00"
        )
        store.save(run)
    assert numbers(page.run()) == [3, 2, 1]
    page.selectbox(key="sort").set_value("Most tokens first").run()
    assert numbers(page) == [2, 3, 1]


def test_a_selection_stays_with_its_run_when_the_list_changes(page, store, folder):
    first = store.save(tiny_run(folder))
    page.run()
    select(page, 0)
    store.save(tiny_run(folder, seed=2))
    check(page.run())
    assert page.query_params["run"] == str(first)


def test_filters_narrow_the_list(page, store, folder):
    run = tiny_run(folder)
    store.save(replace(run, tags=("slow",), title="Alpha"))
    store.save(replace(run, target=replace(run.target, name="other"), title="Beta"))
    store.save(replace(run, started_at="2020-05-05T12:00:00.000000+00:00", title="Gamma"))
    page.run()
    page.text_input(key="filter_search").set_value("beta").run()
    assert numbers(page) == [2]
    page.text_input(key="filter_search").set_value("").run()
    page.multiselect(key="filter_tags").set_value(["slow"]).run()
    assert numbers(page) == [1]
    page.multiselect(key="filter_tags").set_value([]).run()
    page.multiselect(key="filter_targets").set_value(["other"]).run()
    assert numbers(page) == [2]
    page.text_input(key="filter_search").set_value("nowhere").run()
    assert "No saved run fits" in check(page)


def test_days_are_whole_days_of_the_visitor():
    from datetime import date
    from zoneinfo import ZoneInfo

    since, until = history_list.day_bounds(
        (date(2026, 3, 29), date(2026, 3, 29)), ZoneInfo("Europe/Berlin")
    )
    assert since == "2026-03-28T23:00:00.000000+00:00"
    assert until == "2026-03-29T22:00:00.000000+00:00"  # the day the clocks change has 23 hours
    assert history_list.day_bounds((), ZoneInfo("UTC")) == ("", "")


def test_a_run_is_named_noted_and_tagged(page, store, folder):
    number = store.save(tiny_run(folder))
    page.run()
    select(page, 0)
    page.text_input(key=f"title_{number}").set_value("Best K")
    page.text_area(key=f"note_{number}").set_value("try 5")
    page.button(key="save_words").click().run()
    check(page)
    [line] = store.list_runs()
    assert (line.title, line.note) == ("Best K", "try 5")
    assert runs_table(page).value["name"][0] == "Best K"
    page.text_input(key=f"title_{number}").set_value("a\0b")
    page.button(key="save_words").click().run()
    assert "NUL character" in check(page)


def test_deleted_runs_come_back_with_undo(page, store, folder):
    for seed in range(3):
        store.save(tiny_run(folder, seed=seed))
    page.run()
    select(page, 0, 2)
    page.button(key="delete").click().run()
    assert "2 runs deleted" in check(page)
    assert numbers(page) == [2]
    page.button(key="undo").click().run()
    check(page)
    assert numbers(page) == [3, 2, 1]
    assert page.query_params["run"] == "1,3"


def test_undo_outlives_a_reload_and_goes_back_one_deletion_at_a_time(page, store, folder):
    for seed in range(3):
        store.save(tiny_run(folder, seed=seed))
    store.delete([1])
    store.delete([2, 3])
    assert "2 runs deleted" in check(page.run())
    page.button(key="undo").click().run()
    assert numbers(page) == [3, 2]
    assert "1 run deleted" in check(page)
    page.button(key="undo").click().run()
    assert numbers(page) == [3, 2, 1]
    assert "deleted" not in check(page)


def test_the_address_names_the_runs_that_are_shown(page, store, folder):
    for seed in range(3):
        store.save(tiny_run(folder, seed=seed))
    page.query_params["run"] = "2"
    page.run()
    assert ".run-name" in html_of(page) or "#2" in html_of(page)
    select(page, 0)
    assert page.query_params["run"] == "3"
    page.query_params["run"] = "<1>,x9, 2"  # the back button, or somebody's link
    page.run()
    page.run()
    assert page.query_params["run"] == "1,2"


def test_a_run_that_was_deleted_meanwhile_leaves_quietly(page, store, folder):
    for seed in range(2):
        store.save(tiny_run(folder, seed=seed))
    page.run()
    select(page, 0, 1)
    store.delete([1])
    check(page.run())
    assert numbers(page) == [2]
    page.text_area(key="note_2").set_value("too late")
    store.delete([2])
    page.button(key="save_words").click().run()
    check(page)


def test_two_runs_are_compared_with_a_chosen_reference(page, store, folder):
    for k in (2, 5):
        store.save(tiny_run(folder, k=k, num_tokens=40))
    page.run()
    said = select(page, 0, 1)
    kpis = page.dataframe[2].value
    assert list(kpis.columns) == ["", "#2", "#1"]
    assert "better" in str(kpis["#1"].tolist()) or "worse" in str(kpis["#1"].tolist())
    settings = page.dataframe[3].value
    assert settings[""].tolist() == ["K"]
    assert settings["#2"].tolist() == ["5"]
    assert "first differ at token" in said
    assert "<mark>" in html_of(page)
    assert len(page.get("vega_lite_chart")) == 6
    page.selectbox[1].set_value("#1").run()
    check(page)
    assert list(page.dataframe[2].value.columns) == ["", "#1", "#2"]


def test_equal_runs_are_said_to_be_equal(page, store, folder):
    run = tiny_run(folder)
    store.save(run)
    store.save(run)
    page.run()
    said = select(page, 0, 1)
    assert "Everything was set alike" in said
    assert "they are the same" in said
    assert "what differs between them is noise" in said


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "is within the noise"), (3.0, "is more than noise")]
)
def test_repetitions_say_whether_a_difference_is_noise(page, store, folder, factor, verdict):
    for k, slower in ((2, factor), (3, 1.0)):
        for seed in range(4):
            run = tiny_run(folder, seed=seed, k=k)
            wall_s = slower * (1.0 + seed / 50)
            summary = replace(run.summary, prefill_s=0.0, wall_s=wall_s, num_tokens=24)
            store.save(replace(run, summary=summary))
    page.run()
    said = select(page, 0, 4)
    assert "Tokens per second, #4 and 3 like it against #8 and 3 like it" in said
    assert verdict in said.split("Tokens per second, #4")[1].split(".)")[0]
    assert list(page.dataframe[1].value["Runs"]) == ["4", "4"]
    page.toggle(key="count_repetitions").set_value(False).run()
    assert "cannot be told: it takes 3 runs" in check(page)


def test_a_trace_goes_out_and_comes_in_as_the_same_run(page, store, folder):
    run = tiny_run(folder)
    page.run()
    assert "One run was imported" in upload(page, "run.jsonl", dump_trace(run))
    assert store.load(1) == run
    assert page.query_params["run"] == "1"
    assert page.metric


def test_a_vllm_response_comes_in_as_totals_alone(page, store, folder):
    response = json.dumps(vllm_summary(tiny_run(folder))).encode()
    page.run()
    upload(page, "response.json", response)
    assert "Another program wrote these totals" in check(page)
    assert len(page.get("download_button")) == sum(not one.needs_rounds for one in EXPORTS)
    store.save(tiny_run(folder))
    page.run()
    select(page, 0, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"version": 1', b'"version": 99').replace(
            b'"version":1', b'"version":99'
        ),
        lambda data: b"[" * 100_000,
        lambda data: b'{"event":"header","x":"' + b"a" * (11 * 2**20) + b'"}',
        lambda data: b"\xff\xfe\x00",
        lambda data: b"<script>alert(1)</script>",
        lambda data: b"",
    ],
)
def test_a_bad_file_is_one_error_and_changes_nothing(page, store, folder, spoil):
    page.run()
    said = upload(page, "x<script>.jsonl", spoil(dump_trace(tiny_run(folder))))
    assert "Nothing was imported. x<script>.jsonl" in said
    assert len(page.error) == 1
    assert store.count() == 0


def test_of_several_files_all_come_in_or_none(page, store, folder):
    page.run()
    good = ("good.jsonl", dump_trace(tiny_run(folder)), "application/jsonl")
    page.file_uploader[0].set_value([good, ("bad.jsonl", b"{}", "application/jsonl")])
    page.button(key="import_submit").click().run()
    assert "bad.jsonl" in check(page)
    assert store.count() == 0


def test_a_run_that_was_stopped_before_its_first_round_is_shown(page, store, folder):
    pair, events = tiny_events(folder, seed=0, num_tokens=8)
    store.save(record(pair, events[:1]).run("The server went away"))
    page.run()
    said = select(page, 0)
    assert "nothing to play back" in said
    assert "The server went away" in said


def test_a_replay_steps_scrubs_plays_and_pauses(page, store, folder):
    run = tiny_run(folder)
    store.save(run)
    page.run()
    select(page, 0)
    player = page.session_state.history_player[1]
    assert player.round == len(run.rounds)
    page.button(key="replay_back").click().run()
    check(page)
    assert player.view.rounds == list(run.rounds[:-1])
    page.slider(key="replay_round").set_value(2).run()
    check(page)
    assert player.view.rounds == list(run.rounds[:2])
    assert page.slider(key="replay_round").value == 2
    page.button(key="replay_forward").click().run()
    assert player.round == 3
    player.set_speed(1e-9)
    page.button(key="replay_play").click().run()
    check(page)
    assert player.is_playing
    assert not page.slider  # it would send late values back, which would stop the playing
    page.button(key="replay_pause").click().run()
    check(page)
    assert not player.is_playing
    player.seek(player.num_rounds)
    assert player.view.rounds == list(run.rounds)
    assert player.view.text.plain == run.text


def test_what_was_written_is_never_markup(page, store, folder):
    run = tiny_run(folder)
    texts = dict.fromkeys(run.token_texts, HOSTILE)
    for seed in (0, 1):
        store.save(
            replace(
                tiny_run(folder, seed=seed),
                title=HOSTILE if seed else "",
                prompt=HOSTILE,
                note=HOSTILE,
                tags=(HOSTILE,),
                token_texts={**tiny_run(folder, seed=seed).token_texts, **texts},
                target=replace(run.target, name=HOSTILE),
                pieces=tuple(HOSTILE for _ in tiny_run(folder, seed=seed).pieces),
            )
        )
    page.run()
    for rows in ((0,), (1,), (0, 1)):
        said = select(page, *rows)
        assert ("<script>" in said) is (len(rows) == 1)
        for element in (*page.markdown, *page.caption, *page.error, *page.info):
            assert "<" not in element.value.replace("\\<", "")  # what Markdown shows as it is
        assert "<script" not in html_of(page)
        assert "<img" not in html_of(page)
        assert "&lt;script&gt;" in html_of(page)


def test_more_runs_than_can_be_drawn_are_said_to_be_so(page, store, folder, monkeypatch):
    monkeypatch.setattr(history_list, "MAX_LINES", 13)
    for seed in range(14):
        store.save(tiny_run(folder, seed=seed, num_tokens=6))
    assert "first 13 of 14" in check(page.run())
    assert "the first 12 are drawn" in select(page, *range(13))


@pytest.mark.parametrize("entry", [None, "pages/1_History.py"])
def test_settings_that_cannot_be_read_are_one_sentence_on_either_page(tmp_path, monkeypatch, entry):
    monkeypatch.delenv("SPECDEC_DB", raising=False)
    (tmp_path / ".env").write_bytes(b"# f\xfcr\n")
    monkeypatch.chdir(tmp_path)
    page = AppTest.from_file(str(APP), default_timeout=30)
    if entry:
        page.switch_page(entry)
    page.run()
    assert not page.exception
    (said,) = (error.value.replace("\\", "") for error in page.error)
    assert ".env" in said
    assert "UTF-8" in said


def test_a_run_is_asked_what_if(page, store, folder):
    run = replace(tiny_run(folder, num_tokens=60), baseline=Baseline(10, 1.0, 0.0))
    number = store.save(run)
    page.run()
    words = select(page, 0)
    assert "What if" in words
    metrics = {one.label: one for one in page.metric}
    assert "possible run" in words or "predicted" in words
    page.slider(key=f"what_if_k_run_{number}").set_value(0).run()
    assert "one possible run" in check(page)
    metrics = {one.label: one for one in page.metric}
    assert metrics["Times plain"].value == "1.00"
    assert metrics["Target calls"].value == str(run.summary.num_tokens)
    page.slider(key=f"what_if_k_run_{number}").set_value(16).run()
    assert "All of it is predicted" in check(page)
