"""Take the pictures of this folder: every state of the page in both themes, and a run that moves.

    python -m docs.take_pictures [--only STATE …]

Everything shown is real: SmolLM2 answers over the emulated link of 50 ms that the page opens on,
the first run fetches its weights into an empty cache, and the error is a server that nobody
started. Needs Chromium and what requirements-dev.txt names.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.driver import CHROMIUM, FLAGS, free_port, serve

HERE = Path(__file__).parent
THEMES = ("light", "dark")
RUN = "?max_tokens=64&motion=Live"
READY = ".st-key-generate button:visible:not([disabled])"
RUNNING = ".st-key-stop button:visible:not([disabled])"
OVER = ".st-key-replay button:visible:not([disabled])"
SETTLED_MS = 1500
FRAME_WIDTH = 860
FRAMES_S = 14.0


def keep(page: Page, name: str, *, whole: bool = False, settled_ms: float = SETTLED_MS) -> None:
    """Write a picture of the window, or of the page to its end, once it has `settled_ms`."""
    if whole:
        size = page.viewport_size
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": size["width"], "height": height + 20})
    page.wait_for_timeout(settled_ms)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(HERE / f"{name}.webp", lossless=True, quality=90, method=6)
    if whole:
        page.set_viewport_size(size)
    print(name, flush=True)


def generate(page: Page) -> None:
    page.click(READY)
    page.wait_for_selector(RUNNING, timeout=60_000)


def run_whole(page: Page) -> None:
    generate(page)
    page.wait_for_selector(OVER, timeout=300_000)


def click_tab(page: Page, name: str) -> None:
    page.click(f".st-key-study [role=tab]:has-text('{name}')")


def welcome(page: Page, theme: str) -> None:
    keep(page, f"welcome-{theme}")


def running(page: Page, theme: str) -> None:
    """Take a draft that waits for its answer, in slow motion, and the stop."""
    page.click("text='Slow motion'")
    generate(page)
    page.wait_for_selector(".tk.accepted", timeout=120_000)
    page.wait_for_selector(".tk.pending", timeout=60_000)
    keep(page, f"verifying-{theme}", settled_ms=300)
    page.click(RUNNING)
    page.wait_for_selector(OVER, timeout=60_000)
    keep(page, f"stopped-{theme}")


def finished(page: Page, theme: str) -> None:
    page.click(".st-key-race label")
    run_whole(page)
    for tab in ("Is it worth it here?", "Losslessness", "Race", "The whole tree, round by round"):
        click_tab(page, tab)
        page.wait_for_timeout(SETTLED_MS)
        if tab != "The whole tree, round by round":
            study = page.locator(".st-key-study")
            study.scroll_into_view_if_needed()
            keep(page, f"{tab.lower().strip('?').replace(' ', '-')}-{theme}")
    keep(page, f"finished-{theme}", whole=True)


def narrow(page: Page, theme: str) -> None:
    page.set_viewport_size({"width": 400, "height": 900})
    run_whole(page)
    keep(page, f"narrow-{theme}", whole=True)


def history(page: Page, theme: str) -> None:
    """Take the list with one run chosen, and with two."""
    run_whole(page)
    page.click("[data-testid=stPageLink-NavLink]:has-text('History')")
    page.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=30_000)
    page.wait_for_timeout(SETTLED_MS)
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    for number, name in enumerate(("history", "compare")):
        page.mouse.click(box["x"] + 14, box["y"] + 35 * (number + 1.5))
        page.wait_for_timeout(2 * SETTLED_MS)
        keep(page, f"{name}-{theme}", whole=True)


def loading(page: Page, theme: str) -> None:
    generate(page)
    page.wait_for_selector("[data-testid=stProgress] [role=progressbar]", timeout=120_000)
    page.wait_for_timeout(1200)
    keep(page, f"loading-{theme}")
    page.click(RUNNING)
    page.wait_for_selector(READY, timeout=120_000)


def failed(page: Page, theme: str) -> None:
    page.click(READY)
    page.wait_for_selector("[data-testid=stAlert]", timeout=120_000)
    keep(page, f"failed-{theme}")


def motion(page: Page, theme: str) -> None:
    """Record a run as it is seen, each picture for as long as it stood."""
    if theme != "light":
        return
    frames, stood_ms = [], []
    generate(page)
    page.wait_for_selector(".tk", timeout=120_000)
    began_s = before_s = time.monotonic()
    while time.monotonic() - began_s < FRAMES_S:
        shot = Image.open(io.BytesIO(page.screenshot(type="jpeg", quality=90)))
        now_s = time.monotonic()
        shot = shot.crop((300, 0, shot.width, shot.height))
        frames.append(shot.resize((FRAME_WIDTH, round(FRAME_WIDTH * shot.height / shot.width))))
        stood_ms.append(round(1000 * (now_s - before_s)))
        before_s = now_s
    frames[0].save(
        HERE / "run.webp",
        save_all=True,
        append_images=frames[1:],
        duration=[*stood_ms[1:], 2500],
        loop=0,
        quality=55,
        method=4,
    )
    print(f"run, {len(frames)} frames", flush=True)


@contextlib.contextmanager
def prepared_server(state: str, folder: Path) -> Iterator[str]:
    """Serve the app with what a state needs around it."""
    environment = {"SPECDEC_DB": str(folder / "runs.db")}
    if state == "loading":
        environment["SPECDEC_CACHE"] = tempfile.mkdtemp(dir=folder)
    if state == "failed":
        environment |= {
            "TARGET_MODEL": "@lab",
            "DRAFT_MODEL": "ngram",
            "ENDPOINT_LAB_URL": f"http://127.0.0.1:{free_port()}",
            "ENDPOINT_LAB_MODEL": "smollm2",
            "ENDPOINT_LAB_TOKENIZER": "smollm2-135m",
            "ENDPOINT_LAB_SERVER": "vllm",
        }
    with serve("streamlit_app.py", folder / "log", **environment) as url:
        yield url


STATES: dict[str, Callable[[Page, str], None]] = {
    "welcome": welcome,
    "running": running,
    "finished": finished,
    "narrow": narrow,
    "history": history,
    "motion": motion,
    "loading": loading,
    "failed": failed,
}
ON_ONE_SERVER = ("welcome", "running", "finished", "narrow", "history", "motion")


def take(state: str, url: str, browser: Browser) -> None:
    for theme in THEMES:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme=theme, locale="en-GB"
        )
        page = context.new_page()
        page.goto(url + ("" if state == "failed" else RUN))
        page.wait_for_selector(READY, timeout=60_000)
        page.wait_for_timeout(SETTLED_MS)
        STATES[state](page, theme)
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STATES, default=list(STATES))
    states = parser.parse_args().only
    together = [state for state in states if state in ON_ONE_SERVER]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with prepared_server("", Path(folder)) as url:
            for state in together:
                take(state, url, browser)
        for state in states:
            if state not in ON_ONE_SERVER:
                with prepared_server(state, Path(folder)) as url:
                    take(state, url, browser)
        browser.close()


if __name__ == "__main__":
    main()
