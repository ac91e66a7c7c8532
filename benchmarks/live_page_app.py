"""The live page under a stopwatch, for `benchmarks.live_page`: draws and saves what it always does.

Each redraw of the stage writes one line to `SPECDEC_BENCH_LOG`: rounds so far, and the thread time
of tree, text and charts; each finished run writes its summary. With `SPECDEC_BENCH_TOYS` set, toys
of the tests stand on the shelf, whose runs never end early.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from specdec.live.shelf import ModelShelf
from specdec.runs.run import Run
from specdec.ui import loaders, panels
from specdec.ui.live import controls, stage

ROOT = Path(__file__).parents[1]
PARTS = {
    "tree": ("draw_live_tree",),
    "text": ("draw_text",),
    "charts": ("gauges", "speed", "acceptance", "draw_column", "draw_row"),
}


def write(line: dict[str, Any]) -> None:
    with Path(os.environ["SPECDEC_BENCH_LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*args, **options)
        finally:
            spent[part] = spent.get(part, 0.0) + time.thread_time() - began

    return measured


def watch_redraws() -> None:
    """Put the stopwatch in, once for the whole server."""
    spent: dict[str, float] = {}
    for part, names in PARTS.items():
        for name in names:
            setattr(panels, name, timed(getattr(panels, name), spent, part))
    draw_run = stage._draw_run

    def draw(*, final: bool) -> None:
        spent.clear()
        began = time.thread_time()
        try:
            draw_run(final=final)
        finally:
            show = controls.current_show()
            if show is not None and not final:
                whole = time.thread_time() - began
                rounds = len(show.view.rounds)
                write({"rounds": rounds, "at": time.time(), "whole": whole, **spent})

    stage._draw_run = draw


def save(run: Run) -> None:
    write({"summary": dataclasses.asdict(run.summary)})


@st.cache_resource
def toys() -> ModelShelf:
    from tests.live.toys import SkippingToy, toy_load

    toy = SkippingToy(noise=0.6)
    toy.context_length = 4096
    toy.pause_s = float(os.environ["SPECDEC_BENCH_TOYS"])
    return ModelShelf(toy_load(Path(tempfile.mkdtemp()), {"toy": toy}))


@st.cache_resource
def begin() -> None:
    watch_redraws()


begin()
controls.save_run = save
panels.draw_navigation = lambda: None  # this script has no pages beside it
if "SPECDEC_BENCH_TOYS" in os.environ:
    loaders.model_shelf = toys
runpy.run_path(str(ROOT / "streamlit_app.py"))
