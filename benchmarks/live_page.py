"""What the live page costs the run, itself and the eye.

    python -m benchmarks.live_page [--repeats 3] [--tokens 256] [--skip-weights | --first-token]

With SmolLM2: tokens per second of the same seeded run headless and on the page, taken in turn, with
the browser on the same cores, over the emulated link of 50 ms and without one; and the seconds from
`streamlit run` to the first token, and from Generate once a run has gone before. With toys that
never end: cost of an update of tree, text and charts (server, thread time) and of a whole update in
the browser (main thread) around rounds 10, 100 and 300; how often the tree was blank once it had
been seen; frames made; layout shift (CLS), while Streamlit itself loads and in the run. Prints one
JSON document. Needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from specdec.runs.machine import describe_environment
from specdec.ui.live.presets import EXAMPLE_PROMPTS
from tests.browser.driver import CHROMIUM, FLAGS, ROOT, serve

PROMPT = EXAMPLE_PROMPTS["Explain"]
SETTINGS = {
    "prompt": PROMPT,
    "k": "3",
    "temperature": "0.7",
    "policy": "fixed",
    "link": "this machine (0 ms)",
    "motion": "Live",
}
"""What the page is set to where nothing else is said."""
LINKS = {"edge to cloud (50 ms)": 50.0, "this machine (0 ms)": 0.0}
AT_ROUNDS = (10, 100, 300)
SPREAD = 24
WATCH = """
window.shifts = []; window.frames_made = 0;
new PerformanceObserver(list => {
    for (const entry of list.getEntries())
        if (!entry.hadRecentInput) window.shifts.push([entry.startTime, entry.value]);
}).observe({type: 'layout-shift', buffered: true});
new MutationObserver(changes => {
    for (const change of changes) for (const node of change.addedNodes)
        if (node.tagName === 'IFRAME') window.frames_made += 1;
        else if (node.querySelectorAll)
            window.frames_made += node.querySelectorAll('iframe').length;
}).observe(document, {subtree: true, childList: true});
"""
BLANK = """() => {
    const canvas = document.querySelector('canvas');
    if (!canvas) return true;
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return !new Uint32Array(data.buffer).some(pixel => pixel !== 0);
}"""


@dataclass
class Server:
    """A page under a stopwatch, and the lines it wrote."""

    url: str
    log: Path
    started_at: float

    def lines(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def summaries(self) -> list[dict[str, Any]]:
        return [line["summary"] for line in self.lines() if "summary" in line]


@contextlib.contextmanager
def measured_page(**environment: str) -> Iterator[Server]:
    """Start the page under its stopwatch, and stop it in the end."""
    folder = Path(tempfile.mkdtemp())
    log = folder / "log.jsonl"
    names = environment | {"SPECDEC_BENCH_LOG": str(log)}
    started_at = time.monotonic()
    with serve("benchmarks/live_page_app.py", folder / "output", **names) as url:
        yield Server(url, log, started_at)


@contextlib.contextmanager
def open_page(server: Server, **query: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH)
        page.goto(f"{server.url}/?{urllib.parse.urlencode(SETTINGS | query)}")
        page.wait_for_selector(".st-key-generate button:visible:not([disabled])", timeout=60_000)
        yield page
        browser.close()


def generate(page: Page) -> None:
    page.click(".st-key-generate button:visible")


def wait_until_over(page: Page, server: Server, num_runs: int) -> None:
    """Wait for that many runs in the server's log: asking the page would cost the browser time."""
    deadline_s = time.monotonic() + 600
    while len(server.summaries()) < num_runs:
        if time.monotonic() > deadline_s:
            raise TimeoutError("The run did not end within ten minutes.")
        page.wait_for_timeout(500)
    page.wait_for_selector(".st-key-replay button:visible:not([disabled])", timeout=60_000)


# With weights: what the page costs the run


def headless_summary(rtt_ms: float, num_tokens: int) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "specdec", "generate", PROMPT, "--json", "--seed", "1"),
        *("--max-tokens", str(num_tokens), "--rtt-ms", str(rtt_ms), "--k", "4"),
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    summary: dict[str, Any] = json.loads(answer.stdout)["summary"]
    return summary


def page_summary(server: Server, link: str, num_tokens: int) -> dict[str, Any]:
    before = len(server.summaries())
    query = {"link": link, "max_tokens": str(num_tokens), "seed": "1", "k": "4"}
    with open_page(server, **query) as page:
        generate(page)
        wait_until_over(page, server, before + 1)
    return server.summaries()[before]


def tokens_per_s(summary: dict[str, Any]) -> float:
    speed: float = summary["num_tokens"] / (summary["wall_s"] - summary["prefill_s"])
    return speed


def compare_with_headless(repeats: int, num_tokens: int) -> dict[str, Any]:
    """Return tokens per second headless and on the page, taken in turn, and their ratio."""
    found: dict[str, Any] = {}
    with measured_page() as server:
        for link, rtt_ms in LINKS.items():
            headless, page = [], []
            for _ in range(repeats):
                alone = headless_summary(rtt_ms, num_tokens)
                shown = page_summary(server, link, num_tokens)
                same = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
                if any(alone[name] != shown[name] for name in same):
                    raise RuntimeError("The page made another run than the command line.")
                headless.append(tokens_per_s(alone))
                page.append(tokens_per_s(shown))
            found[link] = {
                "headless_tokens_per_s": headless,
                "page_tokens_per_s": page,
                "ratio_of_medians": statistics.median(page) / statistics.median(headless),
            }
    return found


def seconds_to_first_token(repeats: int) -> dict[str, list[float]]:
    """Return the seconds until the first token stands on the screen.

    Cold they count from `streamlit run`, warm from the press of Generate in a new tab of the same
    server, whose models are loaded.
    """
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with measured_page() as server:
            for name, came in found.items():
                with open_page(server, max_tokens="32") as page:
                    page.wait_for_timeout(0 if name == "cold" else 2000)  # somebody reads the page
                    began_s = server.started_at if name == "cold" else time.monotonic()
                    generate(page)
                    page.wait_for_selector(".tk", timeout=120_000)
                    came.append(round(time.monotonic() - began_s, 2))
    return found


# With toys: what an update costs, and how it looks


def browse(pause_s: float = 0.08) -> dict[str, Any]:
    """Watch a run of a thousand tokens."""
    with measured_page(TARGET_MODEL="toy", SPECDEC_BENCH_TOYS=str(pause_s)) as server:
        with open_page(server, max_tokens="1024", k="2") as page:
            session = page.context.new_cdp_session(page)
            # Thread time, so that other work on the machine does not count.
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.wait_for_timeout(1000)
            loaded_ms = page.evaluate("performance.now()")
            generate(page)
            page.wait_for_selector(".tk", timeout=60_000)
            busy = _sample(page, server, session)
            page.click(".st-key-stop button:visible")
            wait_until_over(page, server, 1)
            page.wait_for_timeout(2000)
            shifts = page.evaluate("window.shifts")
            frames_made = page.evaluate("window.frames_made")
        redraws = [line for line in server.lines() if "rounds" in line]
    return {
        "server_ms": {
            str(at): {
                part: round(1e3 * _median(redraws, at, part), 2)
                for part in ("tree", "text", "charts", "whole")
            }
            for at in AT_ROUNDS
        },
        "browser_main_thread_ms": busy["main_thread_ms"],
        "tree_blank_share": busy["blank_share"],
        "tree_samples": busy["samples"],
        "frames_made": frames_made,
        "layout_shift_while_loading": _layout_shift([s for s in shifts if s[0] < loaded_ms]),
        "layout_shift_of_the_run": _layout_shift([s for s in shifts if s[0] >= loaded_ms]),
    }


def _median(redraws: list[dict[str, Any]], at: int, part: str) -> float:
    near = [line[part] for line in redraws if abs(line["rounds"] - at) <= SPREAD and part in line]
    return statistics.median(near)


def _sample(page: Page, server: Server, session: Any) -> dict[str, Any]:
    """Look at the tree ten times a second, and at the main thread around each stretch of rounds."""
    marks: dict[int, list[tuple[int, float]]] = {at: [] for at in AT_ROUNDS}
    seen = blank = samples = 0
    while True:
        redraws = [line for line in server.lines() if "rounds" in line]
        rounds = redraws[-1]["rounds"] if redraws else 0
        for at, mark in marks.items():
            if abs(rounds - at) <= SPREAD:
                mark.append((len(redraws), _task_s(session)))
        frame = next((f for f in page.frames if "agraph" in f.url), None)
        is_blank = frame is None or frame.evaluate(BLANK)
        seen = seen or not is_blank
        samples += bool(seen)
        blank += bool(seen and is_blank)
        if rounds > AT_ROUNDS[-1] + SPREAD:
            break
        page.wait_for_timeout(100)
    costs = {}
    for at, mark in marks.items():
        (first, began_s), (last, ended_s) = mark[0], mark[-1]
        costs[str(at)] = round(1e3 * (ended_s - began_s) / max(1, last - first), 1)
    return {"main_thread_ms": costs, "blank_share": blank / max(1, samples), "samples": samples}


def _task_s(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def _layout_shift(shifts: list[tuple[float, float]]) -> float:
    """Return CLS: the worst window of shifts less than 1 s apart and at most 5 s long."""
    worst = window = 0.0
    began = last = -1e9
    for at, value in shifts:
        if at - last > 1000 or at - began > 5000:
            began, window = at, 0.0
        last, window = at, window + value
        worst = max(worst, window)
    return round(worst, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the live page costs.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--skip-weights", action="store_true")
    part.add_argument("--first-token", action="store_true", help="measure nothing else")
    options = parser.parse_args()
    found: dict[str, Any] = {"environment": describe_environment()}
    if not options.first_token:
        found["update"] = browse()
    if not options.skip_weights:
        found["seconds_to_first_token"] = seconds_to_first_token(options.repeats)
    if not options.skip_weights and not options.first_token:
        found["against_headless"] = compare_with_headless(options.repeats, options.tokens)
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
