"""The history page in Chromium: a run goes out as a file, comes in again and plays back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from specdec.runs.run import Run
from specdec.saved.store import RunStore
from specdec.saved.trace import parse_trace
from tests.browser.conftest import LOCAL
from tests.browser.driver import serve
from tests.browser.test_live_page import RESAMPLED_PIXELS, poll
from tests.made_runs import tiny_run

HOSTILE = "<script>window.ran=1</script><img src=x onerror=window.ran=1> **b** $x$ :red[y]"
ROW_PX, CHECKBOX_PX = 35, 14


@dataclass
class History:
    """A server over a store that holds `run` as number 1 and a hostile one as number 2."""

    url: str
    store: RunStore
    run: Run


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    store = RunStore(folder / "runs.db")
    run = _paced(tiny_run(folder, num_tokens=120))
    store.save(run)
    texts = dict.fromkeys(run.token_texts, HOSTILE)
    hostile = {
        "started_at": "2100-01-01T00:00:00+00:00",
        "prompt": HOSTILE,
        "title": HOSTILE,
        "note": HOSTILE,
        "tags": (HOSTILE,),
    }
    pieces = tuple(HOSTILE for _ in run.pieces)
    store.save(replace(run, token_texts=texts, pieces=pieces, **hostile))
    log = folder / "log"
    with serve("streamlit_app.py", log, SPECDEC_DB=str(folder / "runs.db")) as url:
        yield History(url, store, run)
    store.close()
    assert "Traceback" not in log.read_text()


def _paced(run: Run) -> Run:
    """Give each round a tenth of a second, so that there is something to watch."""
    rounds = tuple(
        replace(one, started_s=0.1 * one.round, draft_s=0.02, wall_s=0.1) for one in run.rounds
    )
    return replace(run, rounds=rounds)


@pytest.fixture
def open_history(chromium, history):
    """Return a function that opens the page; what leaves the machine or goes wrong fails."""
    contexts, errors, foreign = [], [], []

    def open_page(*, scheme: str = "light", width: int = 1280):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        context.on("request", lambda request: foreign.append(request.url))
        tab.goto(history.url)
        tab.wait_for_selector(".st-key-generate button:visible", timeout=60_000)
        if width < 600:
            tab.click("[data-testid=stExpandSidebarButton]")
        tab.click("[data-testid=stPageLink-NavLink]:has-text('History')")
        tab.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=30_000)
        if width < 600:
            tab.click("[data-testid=stSidebarCollapseButton] button")
        tab.wait_for_timeout(800)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    places = [url.split("/")[2].split(":")[0] for url in foreign if url.startswith("http")]
    assert set(places) <= LOCAL


def click_line(tab, number):
    """Select a line of the list, counted from 0."""
    box = tab.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    tab.mouse.click(box["x"] + CHECKBOX_PX, box["y"] + ROW_PX * (number + 1.5))


def shown_rounds(tab):
    return int(tab.input_value(".st-key-replay_round input"))


PROMPT = ".st-key-prompt textarea"
LINKS = "[data-testid=stPageLink-NavLink]"


def shown_settings(tab):
    tab.wait_for_selector(".st-key-generate button:visible", timeout=30_000)
    tab.wait_for_timeout(800)
    return tab.input_value(PROMPT), tab.inner_text(".st-key-k [data-testid=stSliderThumbValue]")


def test_going_to_the_history_and_back_loses_nothing(open_history, history):
    tab = open_history()
    tab.goto(f"{history.url}/?k=7")
    tab.wait_for_selector(".st-key-generate button:visible", timeout=60_000)
    tab.fill(PROMPT, "the tin and the ant")
    tab.keyboard.press("Control+Enter")
    poll(tab, lambda: "tin" in tab.url)
    mine = ("the tin and the ant", "7")
    poll(tab, lambda: shown_settings(tab) == mine)

    tab.click(f"{LINKS}:has-text('History')")
    tab.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=30_000)
    tab.wait_for_timeout(800)
    click_line(tab, 1)
    tab.wait_for_selector(".run-name:has-text('#1 ')")
    assert tab.url.endswith("run=1")
    tab.click(f"{LINKS}:has-text('Live')")
    poll(tab, lambda: "History" not in tab.url)
    poll(tab, lambda: shown_settings(tab) == mine)

    tab.click(f"{LINKS}:has-text('History')")
    tab.wait_for_selector(".run-name:has-text('#1 ')", timeout=30_000)
    tab.go_back()
    poll(tab, lambda: shown_settings(tab) == mine)
    tab.go_forward()
    tab.wait_for_selector(".run-name:has-text('#1 ')", timeout=30_000)

    tab.click(".st-key-open_in_live_button button")
    run = history.run
    poll(tab, lambda: "History" not in tab.url)
    theirs = (run.prompt, str(run.config.num_draft_tokens))
    poll(tab, lambda: shown_settings(tab) == theirs)
    tab.go_back()  # to the list, which Streamlit passes on the way
    tab.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=30_000)
    tab.go_back()
    tab.wait_for_selector(".run-name:has-text('#1 ')", timeout=30_000)
    tab.go_forward()
    tab.go_forward()
    poll(tab, lambda: shown_settings(tab) == theirs)


def test_a_run_leaves_as_a_file_comes_in_again_and_plays(open_history, history, tmp_path):
    tab = open_history()
    click_line(tab, 1)
    tab.wait_for_selector(".run-name:has-text('#1 ')")
    tab.click(".st-key-download_run-1 button")
    with tab.expect_download() as waiting:
        tab.click(".st-key-download_trace button")
    file = Path(tmp_path / "run.jsonl")
    waiting.value.save_as(file)
    assert parse_trace(file.read_bytes()) == history.run
    tab.keyboard.press("Escape")

    tab.click(".st-key-import button")
    tab.set_input_files(".st-key-import_files input[type=file]", file)
    tab.wait_for_selector("text=run.jsonl")
    tab.click(".st-key-import_submit button")
    tab.wait_for_selector("text=One run was imported")
    tab.wait_for_selector(".run-name:has-text('#3 ')")
    assert history.store.load(3) == history.run

    rounds = len(history.run.rounds)
    assert shown_rounds(tab) == rounds
    tab.click(".st-key-replay_back button")
    tab.wait_for_selector(f".st-key-replay_round input[value='{rounds - 1}']", state="attached")
    tab.click(".st-key-replay_forward button")
    tab.wait_for_selector(".st-key-replay_play button:has-text('Replay')")
    tab.click(".st-key-replay_speed button:has-text('¼×')")
    tab.wait_for_timeout(500)
    tab.click(".st-key-replay_play button")
    tab.wait_for_selector(".st-key-replay_pause button")
    tab.click(".st-key-replay_pause button")
    tab.wait_for_selector(".st-key-replay_play button:has-text('Play')")
    assert shown_rounds(tab) < rounds
    tab.click(".st-key-replay_speed button:has-text('8×')")
    tab.wait_for_timeout(500)
    tab.click(".st-key-replay_play button")
    tab.wait_for_selector(".st-key-replay_play button:has-text('Replay')", timeout=30_000)
    assert shown_rounds(tab) == rounds
    tab.click(".st-key-delete button")
    tab.wait_for_selector(".st-key-undo")
    assert history.store.count() == 2


def test_a_click_on_the_tree_of_a_saved_run_tells_its_round(open_history):
    tab = open_history()
    click_line(tab, 1)
    tab.wait_for_selector(".run-name:has-text('#1 ')")
    canvas = tab.frame_locator(".st-key-final_tree iframe").locator("canvas")
    canvas.wait_for(timeout=30_000)
    tab.wait_for_timeout(2000)
    places = sorted(canvas.evaluate(RESAMPLED_PIXELS))
    canvas.scroll_into_view_if_needed()
    told = []
    for (x, y), inwards in ((places[0], 2), (places[-1], -2), (places[0], 2)):
        box = canvas.bounding_box()
        tab.mouse.click(box["x"] + x + inwards, box["y"] + y)
        tab.wait_for_timeout(1000)
        poll(tab, lambda: tab.input_value(".st-key-round input") not in told[-1:], 5)
        told.append(tab.input_value(".st-key-round input"))
    assert told[0] == told[2] != told[1]
    tab.click(".st-key-replay_back button")
    poll(tab, lambda: tab.input_value(".st-key-round input") == str(shown_rounds(tab)), 10)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_runs_are_compared_and_nothing_written_in_them_runs(open_history, scheme, width):
    tab = open_history(scheme=scheme, width=width)
    click_line(tab, 0)
    tab.wait_for_selector(".run-name")
    assert HOSTILE in tab.inner_text(".run-name")
    assert HOSTILE in tab.inner_text(".run-note")
    tab.wait_for_timeout(1500)
    click_line(tab, 1)
    tab.wait_for_selector(".run-key")
    tab.wait_for_selector(".run-text")
    assert tab.locator(".stVegaLiteChart").count() == 6
    for frame in tab.frames:
        assert frame.evaluate("window.ran") is None
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
