"""A run of the past under other circumstances: another K, another link, another draft."""

from __future__ import annotations

import streamlit as st

from specdec.runs.counterfactual import Known, WhatIf, what_if
from specdec.runs.run import Run
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from specdec.view import words

MAX_LINK_MS = 500
_HOW = {
    Known.EXACT: "Rounds: exact, read off the recorded drafts; at temperature 0 a real run at "
    "this K has the very same. Times: predicted from this run's costs.",
    Known.POSSIBLE: "Rounds: one possible run at this K, read off the recorded drafts with the "
    "same coins. Times: predicted from this run's costs.",
    Known.PREDICTED: "All of it is predicted, from this run's acceptance by position and its "
    "costs: its drafts do not say what would have been drafted at this K.",
}
_NO_BASELINE = (
    " No baseline was measured, so a call of the target is taken to cost the same at any K, and "
    "how this compares with plain decoding cannot be said."
)


def draw(run: Run, identity: str) -> None:
    """Draw the sliders, and what the run would have come to."""
    st.markdown(
        "**What if**",
        help="The same run at another K, over another link, with a cheaper or dearer draft.",
    )
    recorded = run.config.num_draft_tokens if run.config else run.rounds[0].num_draft_tokens
    calls = max(1, run.summary.num_target_calls)
    link_ms = min(MAX_LINK_MS, round(1e3 * run.summary.link_s / calls))
    first, second, third = st.columns(3)
    k = first.slider(
        "Drafted tokens, K", 0, MAX_NUM_DRAFT_TOKENS, recorded, key=f"what_if_k_{identity}"
    )
    rtt_ms = second.slider(
        "Round trip, ms", 0, MAX_LINK_MS, link_ms, key=f"what_if_link_{identity}"
    )
    factor = third.slider(
        "Cost of drafting, times this run's", 0.0, 4.0, 1.0, 0.1, key=f"what_if_cost_{identity}"
    )
    found = what_if(run, k, rtt_ms / 1e3, factor)
    if found is None:
        st.caption("This run says nothing about that: it tested no draft, or has no real times.")
        return
    _draw_found(found)
    st.caption(words.plain(_HOW[found.known] + ("" if found.plain_s else _NO_BASELINE)))


def _draw_found(found: WhatIf) -> None:
    is_whole = found.known is not Known.PREDICTED
    cells = st.columns(4)
    cells[0].metric(
        "Tokens per second", f"{found.tokens_per_s:.1f}", help="Predicted from this run's costs."
    )
    if found.times_plain is not None:
        cells[1].metric(
            "Times plain",
            f"{found.times_plain:.2f}",
            help="Predicted, against plain decoding of the same target over the same link.",
        )
    else:
        cells[1].metric(
            "Times this run",
            f"{found.times_recorded:.2f}",
            help="Predicted, against the run as it was recorded.",
        )
    cells[2].metric(
        "Target calls",
        f"{found.num_rounds:.0f}" if is_whole else f"about {found.num_rounds:.0f}",
        help=f"For the same {found.num_tokens} tokens.",
    )
    cells[3].metric(
        "Drafted tokens",
        f"{found.num_drafted:.0f}" if is_whole else f"about {found.num_drafted:.0f}",
        help="Sent to the target, accepted or not.",
    )
