"""From the live page into the store, and from there onto the history page."""

from __future__ import annotations

import threading
from dataclasses import replace

from specdec.ui.history.store import run_store
from tests.live.toys import frames_of, wait_for
from tests.ui.test_live_page import check, finish, generate

HISTORY = "pages/1_History.py"


def test_a_finished_run_is_saved_and_stands_on_the_history_page(page):
    generate(page)
    live = finish(page)
    assert run_store().load(1) == live.run
    page.switch_page(HISTORY).run()
    check(page)
    assert list(page.dataframe[0].value["run"]) == [1]


def test_a_stopped_run_is_saved_with_its_rounds(page, model):
    model.gate = threading.Semaphore(30)
    live = generate(page)
    wait_for(lambda: len(frames_of(live)) > 4 and model.gate._value == 0)
    page.button(key="stop").click()
    model.gate.release(1000)
    page.run()
    finish(page)
    saved = run_store().load(1)
    # A draft that was never answered is no round, so the store keeps no texts for it.
    assert saved == replace(live.run, token_texts=saved.token_texts)
    assert saved.token_texts.items() <= live.run.token_texts.items()
    assert saved.summary.finish_reason == "stopped"
    assert saved.rounds


def test_a_failed_run_is_saved_with_its_error(page, model):
    model.fail_after = 60
    generate(page)
    finish(page)
    assert "wind it up" in run_store().load(1).summary.error


def test_a_run_that_cannot_be_saved_stays_on_the_page_with_its_files(page, monkeypatch, tmp_path):
    (tmp_path / "none.db").write_text("this is no database at all, but a text of some length")
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "none.db"))
    generate(page)
    live = finish(page)
    check(page)
    assert "This run could not be saved" in page.warning[0].value
    assert live.run.rounds
    assert page.get("download_button")
