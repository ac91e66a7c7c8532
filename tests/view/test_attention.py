"""The pictures of attention: the mask, the shades, and text that is never markup."""

from __future__ import annotations

import re

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.runs.attention import Attention
from specdec.view import attention as pictures
from specdec.view.attention import HIDDEN, PATH, TEXT

TREE = Draft((10, 11, 12, 13), (-1, -1, 0, 1), (None,) * 4)
CONTEXT = tuple(range(5))
SLOTS = len(CONTEXT) + len(TREE)


@pytest.fixture
def found():
    weights = np.zeros((2, 3, 1 + len(TREE), SLOTS), np.float32)
    made = Attention(0, CONTEXT, 3, TREE, weights)
    for node in range(-1, len(TREE)):
        seen = made.sees(node)
        weights[:, :, node + 1, seen] = 1.0 / seen.sum()
    return made


def text_of(token_id):
    return f"<b>+{token_id}</b>"


def test_the_mask_shows_the_text_the_path_and_no_sibling(found):
    data = pictures.mask_data(found, text_of)
    kinds = {row: rows.sort_values("column")["kind"].tolist() for row, rows in data.groupby("row")}
    text = [TEXT] * 5
    assert kinds == {
        -1: [*text, HIDDEN, HIDDEN, HIDDEN, HIDDEN],
        0: [*text, PATH, HIDDEN, HIDDEN, HIDDEN],
        1: [*text, HIDDEN, PATH, HIDDEN, HIDDEN],
        2: [*text, PATH, HIDDEN, PATH, HIDDEN],
        3: [*text, HIDDEN, PATH, HIDDEN, PATH],
    }
    assert data["slot"].nunique() == SLOTS
    assert data[data["column"] == 5]["slot"].unique().tolist() == ["1 <b>+10</b>"]
    assert data[data["row"] == -1]["node"].unique().tolist() == ["0 <b>+4</b>"]


def test_of_a_long_text_the_last_tokens_have_columns(found):
    long = Attention(0, tuple(range(300)), 3, TREE, np.zeros((1, 1, 5, 304), np.float32))
    data = pictures.mask_data(long, text_of)
    assert data["column"].nunique() == pictures.MAX_TEXT_COLUMNS + len(TREE)
    assert data["column"].max() == 303


def shades(html):
    return [float(shade) for shade in re.findall(r"rgba\(\d+, \d+, \d+, ([\d.]+)\)", html)]


def test_tokens_are_shaded_by_what_they_got_and_the_first_one_is_no_measure(found):
    weights = np.array([0.7, 0.16, 0.04, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0], np.float32)
    before, tree = pictures.shaded_html(found, 0, weights, text_of)
    top = pictures.MAX_SHADE
    assert shades(before) == pytest.approx([top, top, top / 2, 0, 0], abs=1e-3)
    assert shades(tree)[0] == pytest.approx(top * (0.1 / 0.16) ** 0.5, abs=1e-3)
    assert tree.count('class="hidden"') == 3
    assert tree.count('class="own"') == 1
    assert 'class="own"' not in before
    assert 'title="16.0 %"' in before


def test_nothing_looked_at_is_no_shade_and_no_division(found):
    before, tree = pictures.shaded_html(found, -1, np.zeros(SLOTS, np.float32), text_of)
    assert set(shades(before + tree)) == {0.0}
    assert 'class="own"' in before
    assert sum(pictures.shares(found, np.zeros(SLOTS, np.float32)).values()) == 0.0


def test_what_a_model_wrote_is_never_markup(found):
    html = "".join(pictures.shaded_html(found, 0, found.of(0, 0, "mean"), text_of))
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_the_shares_make_up_all_that_was_given(found):
    parts = pictures.shares(found, found.of(3, 1, 0))
    assert list(parts) == [
        "the first token of all",
        "the rest of the prompt",
        "the output before",
        "the tree",
    ]
    assert list(parts.values()) == pytest.approx([1 / 7, 2 / 7, 2 / 7, 2 / 7])


def test_a_node_is_told_by_its_path(found):
    assert pictures.node_label(found, 3, str) == "4: 11 › 13"
    assert pictures.node_label(found, -1, str).startswith("0: 4 ")


def test_the_mask_carries_no_data():
    assert not {"data", "datasets"} & set(pictures.mask_spec())
