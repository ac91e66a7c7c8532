"""What a node of the tree looked at: its mask as a picture, and the text shaded by its weights."""

from __future__ import annotations

from functools import cache
from html import escape

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.records import percent
from specdec.runs.attention import Attention
from specdec.view.charts import Data, Spec, bare_spec, empty_chart
from specdec.view.facts import TextOf, visible
from specdec.view.palette import DRAFT_COLOR, VERIFY_COLOR

MAX_TEXT_COLUMNS = 16
"""How many of the tokens before the tree the picture of the mask has columns for."""
TEXT, PATH, HIDDEN = "text", "path", "not seen"
_KINDS = {TEXT: VERIFY_COLOR, PATH: DRAFT_COLOR, HIDDEN: "#80849526"}
_COLUMNS = ["row", "column", "node", "slot", "kind"]
_SHADE = "139, 92, 246"  # DRAFT_COLOR, which text can be read on in either theme
MAX_SHADE = 0.75

STUDY = "attention_study"
"""The key of the container that holds text and tree."""
_UNSEEN = -1
"""The shade of what cannot be seen; where one is negative, the style sheet strikes it through."""


def node_label(attention: Attention, node: int, text_of: TextOf) -> str:
    """Return a node in a few words: its number from 1, and its path through the tree."""
    if node < 0:
        return f"0: {visible(text_of(attention.context[-1]))} (the last token before the tree)"
    path = attention.tree.path_to(node)
    texts = [visible(text_of(attention.tree.token_ids[one])) for one in path]
    return f"{node + 1}: {' › '.join(texts)}"


@cache
def mask_spec() -> Spec:
    """Return the tree mask: a row for each token that looks, a column for each that is seen."""
    base = empty_chart(*_COLUMNS)
    cells = base.mark_rect(stroke="#80849540", strokeWidth=0.5).encode(
        x=alt.X("slot:O")
        .sort(field="column")
        .title("seen")
        .axis(labelAngle=-60, labelLimit=70, ticks=False, labelOverlap=False),
        y=alt.Y("node:O")
        .sort(field="row")
        .title("looks")
        .axis(labelLimit=120, ticks=False, labelOverlap=False),
        color=alt.Color("kind:N")
        .scale(domain=list(_KINDS), range=list(_KINDS.values()))
        .legend(orient="top", title=None, symbolSize=60),
        tooltip=[
            alt.Tooltip("node:N", title="looks"),
            alt.Tooltip("slot:N", title="at"),
            alt.Tooltip("kind:N", title="which is"),
        ],
    )
    return bare_spec(cells)


def mask_data(attention: Attention, text_of: TextOf) -> Data:
    """Return a row per cell: of each node, the last tokens of the text and all of the tree."""
    num_text = len(attention.context)
    first = max(0, num_text - MAX_TEXT_COLUMNS)
    names = [
        f"{slot - num_text + 1} {visible(text_of(token_id))}"
        for slot, token_id in enumerate(attention.token_ids)
    ]
    rows = []
    for node in range(-1, len(attention.tree)):
        seen = attention.sees(node)
        for slot in range(first, len(seen)):
            kind = HIDDEN if not seen[slot] else TEXT if slot < num_text else PATH
            rows.append((node, slot, names[num_text + node], names[slot], kind))
    return pd.DataFrame(rows, columns=_COLUMNS)


def style(num_nodes: int, chosen: int) -> str:
    """Return the style sheet of `shaded_html`: what a node looked at shows while it is pointed at.

    Every token knows its shade for each node that looks; which of them holds is said here, so that
    pointing (or going there with the tabulator key) needs no server.
    """
    looking = "\n".join(
        f".st-key-{STUDY}:has(.{_mark(node)}:is(:hover, :focus)) .attention span "
        f"{{ --shade: var(--{_mark(node)}); }}"
        for node in range(-1, num_nodes)
    )
    return f"""
.attention {{ line-height: 2; overflow-wrap: anywhere; }}
.attention.tree {{ display: grid; justify-content: start; gap: 4px 10px;
  padding: 4px; overflow-x: auto; }}
.attention span {{
  --shade: var(--{_mark(chosen)});
  padding: 2px 3px; border-radius: 3px; white-space: pre-wrap;
  background: rgba({_SHADE}, var(--shade));
  opacity: clamp(.6, calc(1 + var(--shade)), 1);
  text-decoration: line-through rgba(128, 132, 149, calc(-1 * var(--shade)));
}}
.attention.tree span {{ border: 1px solid #80849580; width: max-content; }}
.attention span.{_mark(chosen)} {{ outline: 2px dashed #f59e0b; }}
.attention span[tabindex]:is(:hover, :focus) {{ outline: 3px solid #f59e0b; cursor: help; }}
{looking}
"""


def shaded_html(
    attention: Attention, chosen: int, layer: int, heads: int | str, text_of: TextOf
) -> tuple[str, str]:
    """Return the text before the tree, and the tree, each token the darker the more it got.

    The tree has a line for each leaf and a column for each depth. The first token of all is no
    measure: most heads rest on it when they look for nothing. Where it got more than any other it
    is as dark as the next.

    Args:
        attention: of the round.
        chosen: the node whose shares stand in the tooltips, −1 for the last token before the tree.
        layer: counted from 0.
        heads: as `Attention.of` takes them.
        text_of: gives each token's text.
    """
    num_text, tree = len(attention.context), attention.tree
    lookers = range(-1, len(tree))
    shades = np.array([_shades(attention, node, layer, heads) for node in lookers])
    weights, seen = attention.of(chosen, layer, heads), attention.sees(chosen)
    depths = [len(tree.path_to(node)) for node in range(len(tree))]
    lines = _lines(tree)
    spans = []
    for slot, token_id in enumerate(attention.token_ids):
        node = slot - num_text
        styles = [f"--{_mark(one)}:{shades[one + 1, slot]:.3g}" for one in lookers]
        marks = ""
        if node >= -1:
            marks = f' class="{_mark(node)}" tabindex="0"'
        if node >= 0:
            styles.append(f"grid-area:{lines[node]}/{depths[node]}")
        share = f"{percent(float(weights[slot]))} of the chosen token’s" if seen[slot] else HIDDEN
        text = escape(visible(text_of(token_id)))
        spans.append(f'<span{marks} style="{";".join(styles)}" title="{share}">{text}</span>')
    before, nodes = " ".join(spans[:num_text]), "".join(spans[num_text:])
    return f'<div class="attention">{before}</div>', f'<div class="attention tree">{nodes}</div>'


def _mark(node: int) -> str:
    """Return the name of a node that looks, in the style sheet."""
    return f"n{node + 1}"


def _shades(attention: Attention, node: int, layer: int, heads: int | str) -> NDArray[np.float32]:
    """Return how dark each slot is when `node` looks, negative where it is not seen."""
    weights = attention.of(node, layer, heads)
    most = float(weights[1:].max(initial=0.0)) or 1.0
    shades = MAX_SHADE * np.sqrt(np.minimum(1.0, weights / most))
    return np.where(attention.sees(node), shades, np.float32(_UNSEEN))


def _lines(tree: Draft) -> dict[int, int]:
    """Return the line of each node, from 1: a path goes on in its line, its siblings go below."""
    children, lines = tree.children(), {-1: 1}
    open_nodes = [(-1, child) for child in reversed(children[0])]
    last = 1
    while open_nodes:
        parent, node = open_nodes.pop()
        is_first = node == children[parent + 1][0]
        last += not is_first
        lines[node] = lines[parent] if is_first else last
        open_nodes += [(node, child) for child in reversed(children[node + 1])]
    return lines


def shares(attention: Attention, weights: NDArray[np.float32]) -> dict[str, float]:
    """Return how much of what was given went where; together it is all of it."""
    prompt, text = attention.num_prompt_tokens, len(attention.context)
    parts = {
        "the first token of all": weights[:1],
        "the rest of the prompt": weights[1:prompt],
        "the output before": weights[prompt:text],
        "the tree": weights[text:],
    }
    total = float(weights.sum()) or 1.0
    return {name: float(part.sum()) / total for name, part in parts.items() if len(part)}
