"""The live page under a stopwatch, for `benchmarks.live_page`: draws and saves what it always does.

Each redraw of the stage writes one line to `SPECDEC_BENCH_LOG`: rounds so far, and the thread time
of tree, text and charts; each finished run writes its summary. With `SPECDEC_BENCH_TOYS` set, toys
of the tests stand on the shelf, whose runs never end early.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from specdec.live.shelf import ModelShelf
from specdec.runs.run import Run
from specdec.ui import loaders
from specdec.ui.live import controls
from streamlit_app import draw_page

spent = threading.local()


def write(line: dict[str, Any]) -> None:
    with Path(os.environ["SPECDEC_BENCH_LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def stopwatch(part: str) -> Iterator[None]:
    """Add up the thread time of a redraw's parts; the whole one is written when it ends."""
    if part == "whole":
        spent.seconds = {}
    began = time.thread_time()
    try:
        yield
    finally:
        spent.seconds[part] = spent.seconds.get(part, 0.0) + time.thread_time() - began
        live, show = controls.current_run(), controls.current_show()
        if part == "whole" and show is not None and live is not None and live.is_alive:
            rounds = len(show.view.rounds)
            write({"rounds": rounds, "at": time.time(), **spent.seconds})


def save(run: Run) -> None:
    write({"summary": dataclasses.asdict(run.summary)})


@st.cache_resource
def toys() -> ModelShelf:
    from tests.live.toys import SkippingToy, toy_load

    toy = SkippingToy(noise=0.6)
    toy.context_length = 4096
    toy.pause_s = float(os.environ["SPECDEC_BENCH_TOYS"])
    return ModelShelf(toy_load(Path(tempfile.mkdtemp()), {"toy": toy}))


shelf = toys() if "SPECDEC_BENCH_TOYS" in os.environ else loaders.model_shelf()
draw_page(shelf, save, watch=stopwatch, has_history=False)
