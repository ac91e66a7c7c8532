"""The lab in Chromium: a plan is edited, measured, stopped, gone on with, and drawn as a map."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from specdec.lab.plan_file import parse_plan, write_plan
from specdec.saved.store import RunStore
from specdec.saved.sweeps import list_sweeps
from tests.browser.conftest import LOCAL
from tests.browser.driver import serve
from tests.models.tiny import write_tiny_llama

PLAN = """
name = "mine"
target = {target!r}
backend = "portable"
stops_early = false
drafts = ["ngram"]
k = [1, 2]
rtt_ms = [0, 10]
max_tokens = 12
[prompts]
classes = ["code", "list"]
per_class = 4
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    target = write_tiny_llama(folder / "target")
    store = RunStore(folder / "runs.db")
    log = folder / "log"
    with serve("streamlit_app.py", log, SPECDEC_DB=str(folder / "runs.db")) as url:
        yield url, store, PLAN.format(target=str(target))
    store.close()
    assert "Traceback" not in log.read_text()


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme.startswith("http") and parts.hostname not in LOCAL


@pytest.fixture
def tab(chromium, lab):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors, foreign = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    context.on(
        "request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None
    )
    page.goto(f"{lab[0]}/Lab")
    page.wait_for_selector(".st-key-lab_run button:visible", timeout=60_000)
    yield page
    context.close()
    assert errors == []
    assert not any(map(is_foreign, foreign))


def press(tab, key):
    tab.click(f".st-key-{key} button:visible:not([disabled])", timeout=20_000)


def test_a_plan_is_measured_stopped_and_gone_on_with(tab, lab):
    _, store, text = lab
    plan = parse_plan(text)
    tab.fill(".st-key-lab_text_box textarea", "k = [99]")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("text=between 0 and 16", timeout=20_000)
    tab.fill(".st-key-lab_text_box textarea", write_plan(plan))
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("text=48 cells: 8 prompts", timeout=20_000)
    press(tab, "lab_run")
    tab.wait_for_selector("text=/\\d+ of 48 cells/", timeout=30_000)
    press(tab, "lab_stop")
    tab.wait_for_selector(".st-key-lab_run button:visible:not([disabled])", timeout=20_000)
    num_kept = list_sweeps(store)[0].num_cells
    assert 0 < num_kept < 48
    tab.wait_for_selector(f"text={48 - num_kept} are left")
    press(tab, "lab_run")
    tab.wait_for_selector("text=All that is to be run is measured", timeout=60_000)
    assert list_sweeps(store)[0].num_cells == 48
    tab.wait_for_selector("text=Recommended.")
    maps = tab.locator("[data-testid=stVegaLiteChart]")
    maps.first.wait_for()
    assert maps.count() == 3
    heat = maps.first.locator("canvas, svg").first
    heat.wait_for()
    assert heat.bounding_box()["height"] > 200
