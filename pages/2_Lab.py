"""The lab: which draft, which K, for these prompts, on this machine."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError, StoreError
from specdec.ui import loaders, panels
from specdec.ui.history.store import run_store, showing_waits
from specdec.ui.lab import page
from specdec.ui.lab.editor import STYLE
from specdec.view import words

st.set_page_config(page_title="Lab · SpeculatoViz", page_icon=str(panels.ICON), layout="wide")
panels.draw_style()
panels.draw_navigation()
st.html(STYLE)
st.markdown("### Lab :small[:gray[Which draft, which K, for your prompts, on this machine]]")

try:
    with showing_waits():
        page.draw(run_store(), loaders.model_shelf())
except (SettingsError, StoreError) as error:
    st.error(words.plain(str(error)), icon=":material/error:")
