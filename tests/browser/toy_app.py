"""The live page with toys on its shelf, for Chromium; started by `conftest.py`, never shipped.

Everything but the weights is real. A run that ends is written to `SPECDEC_TEST_SAVED`, one line
each, which stands for the store.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import streamlit as st

from specdec.live.shelf import ModelShelf
from streamlit_app import draw_page
from tests.live.toys import SkippingToy, WritingToy, toy_load

HOSTILE = (
    "<script>window.ran=1</script> <img src=x onerror=window.ran=1> **b** $x$ :red[y] "
    "[a](javascript:alert(1)) \n\n# no heading\n"
)


@st.cache_resource
def toys() -> ModelShelf:
    models = {"toy": SkippingToy()}
    load = toy_load(Path(tempfile.mkdtemp()), models)
    tokenizer = load("toy", "auto").tokenizer
    models["hostile"] = WritingToy(tokenizer.encode(HOSTILE))
    for model in models.values():
        model.pause_s = 0.06
    return ModelShelf(load)


def save(run) -> None:
    line = {
        "rounds": len(run.rounds),
        "text": run.text,
        "finish_reason": run.summary.finish_reason,
    }
    with open(os.environ["SPECDEC_TEST_SAVED"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


draw_page(toys(), save, has_history=False)
