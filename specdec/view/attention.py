"""What a node of the tree looked at: its mask as a picture, and the text shaded by its weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

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

STYLE = """
.attention { line-height: 2; overflow-wrap: anywhere; }
.attention span { padding: 2px 1px; border-radius: 3px; }
.attention span.own { outline: 2px solid #f59e0b; }
.attention span.hidden { opacity: .65; text-decoration: line-through dotted; }
"""


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


def shaded_html(
    attention: Attention, node: int, weights: NDArray[np.float32], text_of: TextOf
) -> tuple[str, str]:
    """Return the text before the tree, and the tree's tokens, each the darker the more it got.

    The first token of all is no measure: most heads rest on it when they look for nothing. Where it
    got more than any other it is as dark as the next.

    Args:
        attention: of the round.
        node: that looks, −1 for the last token before the tree.
        weights: what it gave each slot [num_slots].
        text_of: gives each token's text.
    """
    most = float(weights[1:].max(initial=0.0)) or 1.0
    num_text, seen = len(attention.context), attention.sees(node)
    spans = []
    for slot, token_id in enumerate(attention.token_ids):
        weight = float(weights[slot])
        shade = MAX_SHADE * min(1.0, (weight / most) ** 0.5)
        share = percent(weight) if seen[slot] else HIDDEN
        marks = ["own"] * (slot == num_text + node) + ["hidden"] * (not seen[slot])
        spans.append(
            f'<span class="{" ".join(marks)}" style="background:rgba({_SHADE}, {shade:.3f})" '
            f'title="{share}">{escape(visible(text_of(token_id)))}</span>'
        )
    before, tree = spans[:num_text], spans[num_text:]
    return _block(before), _block(tree)


def _block(spans: Sequence[str]) -> str:
    return f'<div class="attention">{" ".join(spans)}</div>'


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
