"""What a sweep came to."""

from __future__ import annotations

import streamlit as st

from specdec.lab.plan import Plan
from specdec.lab.results import Results
from specdec.saved.store import RunStore


def draw(store: RunStore, plan: Plan, results: Results) -> None:
    """Draw the results so far."""
    if not results.cells:
        st.caption("Nothing of this plan is measured yet. Run measures it.")
        return
    st.caption(f"{len(results.cells):,} cells are measured.")
