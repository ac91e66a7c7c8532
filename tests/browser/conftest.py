"""A server with toys, and Debian's Chromium; what leaves the machine or goes wrong is recorded."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# The flags keep Chromium itself from calling its maker.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
LOCAL = {"localhost", "127.0.0.1"}


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [
        *(sys.executable, "-m", "streamlit", "run", "tests/browser/toy_app.py"),
        *("--server.port", str(port), "--server.headless", "true"),
        *("--server.fileWatcherType", "none"),
    ]
    environment = os.environ | {
        "TARGET_MODEL": "toy",
        "PYTHONPATH": str(ROOT),
        "SPECDEC_TEST_SAVED": str(folder / "saved.jsonl"),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://localhost:{port}"
    try:
        _wait_until_up(url, process)
        yield Server(url, folder / "saved.jsonl")
    finally:
        process.terminate()
        process.wait(20)
    assert "Traceback" not in (folder / "log").read_text()


def _wait_until_up(url: str, process: subprocess.Popen) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("The server did not start.")


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

    def open_page(query: str = "", *, scheme: str = "light", width: int = 1280):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        tab = context.new_page()
        tab.watch = watch = Watch()
        tab.on("pageerror", lambda error: watch.errors.append(str(error)))
        tab.on(
            "console",
            lambda line: watch.errors.append(line.text) if line.type == "error" else None,
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
        tab.goto(f"{server.url}/?{query}")
        tab.wait_for_selector(".st-key-generate button:visible:not([disabled])", timeout=60_000)
        tabs.append(tab)
        return tab

    yield open_page
    watches = [tab.watch for tab in tabs]
    for context in contexts:
        context.close()
    assert [watch.errors for watch in watches] == [[] for _ in watches]
    assert [watch.foreign for watch in watches] == [[] for _ in watches]
