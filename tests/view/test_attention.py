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


def shades(html, node):
    """Return how dark each token is while `node` looks."""
    return [float(shade) for shade in re.findall(rf"--n{node + 1}:(-?[\d.e-]+)", html)]


def test_tokens_are_shaded_by_what_they_got_and_the_first_one_is_no_measure(found):
    found.weights[:, :, 1] = [0.7, 0.16, 0.04, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]
    before, tree = pictures.shaded_html(found, 0, 0, "mean", text_of)
    top = pictures.MAX_SHADE
    assert shades(before, 0) == pytest.approx([top, top, top / 2, 0, 0], abs=1e-3)
    assert shades(tree, 0) == pytest.approx([top * (0.1 / 0.16) ** 0.5, -1, -1, -1], abs=1e-3)
    assert 'title="16.0 % of' in before
    assert tree.count('title="not seen"') == 3


def test_every_token_knows_its_shade_for_every_one_that_looks(found):
    before, tree = pictures.shaded_html(found, 0, 0, "mean", text_of)
    for node in range(-1, len(TREE)):
        told = [shade >= 0 for shade in shades(before + tree, node)]
        assert told == found.sees(node).tolist()
        assert f".n{node + 1}:is(:hover, :focus)" in pictures.style(len(TREE), 0)
        assert (before + tree).count(f'class="n{node + 1}" tabindex="0"') == 1
    assert 'class="n0"' in before


def test_the_tree_has_a_line_for_each_leaf_and_a_column_for_each_depth(found):
    _, tree = pictures.shaded_html(found, 0, 0, "mean", text_of)
    assert re.findall(r"grid-area:(\d+)/(\d+)", tree) == [
        ("1", "1"),
        ("2", "1"),
        ("1", "2"),
        ("2", "2"),
    ]


def test_nothing_looked_at_is_no_shade_and_no_division(found):
    found.weights[:] = 0.0
    before, tree = pictures.shaded_html(found, -1, 0, "mean", text_of)
    assert set(shades(before + tree, -1)) == {0.0, -1.0}
    assert sum(pictures.shares(found, np.zeros(SLOTS, np.float32)).values()) == 0.0


def test_what_a_model_wrote_is_never_markup(found):
    html = "".join(pictures.shaded_html(found, 0, 0, "mean", text_of))
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


@pytest.mark.parametrize(
    ("parents", "lines"),
    [
        ((-1, 0, 1), [1, 1, 1]),
        ((-1, -1, 0, 0, 1, 4), [1, 3, 1, 2, 3, 3]),  # 3 leaves
        ((-1, -1, -1), [1, 2, 3]),
        ((-1, 0, 0, 2, 2, -1), [1, 1, 2, 2, 3, 4]),
    ],
)
def test_a_path_goes_on_in_its_line(parents, lines):
    tree = Draft(tuple(range(len(parents))), parents, (None,) * len(parents))
    weights = np.zeros((1, 1, 1 + len(tree), 2 + len(tree)), np.float32)
    _, html = pictures.shaded_html(Attention(0, (1, 2), 2, tree, weights), 0, 0, 0, text_of)
    assert [int(line) for line in re.findall(r"grid-area:(\d+)/", html)] == lines
