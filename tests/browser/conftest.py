"""A server with toys, and Debian's Chromium; what leaves the machine or goes wrong is recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.browser.driver import CHROMIUM, FLAGS, serve

LOCAL = {"localhost", "127.0.0.1"}
PLAIN = {
    "k": "3",
    "temperature": "0.7",
    "link": "this machine (0 ms)",
    "policy": "fixed",
    "motion": "Live",
}
"""What a tab is set to where a test says nothing else: not what the page opens on by itself."""


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class Server:
    """A running page; `saved` reads what its store was given."""

    url: str
    saved_file: Path

    def saved(self):
        if not self.saved_file.exists():
            return []
        return [json.loads(line) for line in self.saved_file.read_text().splitlines()]


@dataclass
class Watch:
    """What a tab asked for and complained about."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    saved, log = folder / "saved.jsonl", folder / "log"
    names = {"TARGET_MODEL": "toy", "SPECDEC_TEST_SAVED": str(saved)}
    with serve("tests/browser/toy_app.py", log, **names) as url:
        yield Server(url, saved)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(chromium, server):
    """Return a function that opens the page in a new tab; `tab.watch` says how it behaved."""
    contexts, tabs = [], []

    def open_page(query: str = "", *, scheme: str = "light", width: int = 1280, height: int = 900):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        tab = context.new_page()
        tab.watch = watch = Watch()
        tab.on("pageerror", lambda error: watch.errors.append(str(error)))
        tab.on(
            "console",
            lambda line: (
                watch.errors.append(line.text)
                if line.type == "error" or "Infinite extent" in line.text
                else None
            ),
        )
        context.on(
            "request",
            lambda request: (
                watch.foreign.append(request.url)
                if urlsplit(request.url).scheme.startswith("http")
                and urlsplit(request.url).hostname not in LOCAL
                else None
            ),
        )
        tab.goto(f"{server.url}/?{urlencode(PLAIN | dict(parse_qsl(query)))}")
        tab.wait_for_selector(".st-key-generate button:visible:not([disabled])", timeout=60_000)
        tabs.append(tab)
        return tab

    yield open_page
    watches = [tab.watch for tab in tabs]
    for context in contexts:
        context.close()
    assert [watch.errors for watch in watches] == [[] for _ in watches]
    assert [watch.foreign for watch in watches] == [[] for _ in watches]
