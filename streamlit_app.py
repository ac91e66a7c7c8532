"""The live page: read the settings, run, draw."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError
from specdec.settings import Settings
from specdec.ui import panels
from specdec.ui.live import controls, stage
from specdec.ui.live.connection import draw_connection
from specdec.ui.live.sidebar import draw_sidebar
from specdec.view import words

# A file, because Streamlit fetches emoji and Material icons for the tab from another host.
st.set_page_config(page_title="SpeculatoViz", page_icon=str(panels.ICON), layout="wide")
panels.draw_style()
panels.draw_navigation()

try:
    defaults = Settings.from_environment().run
except SettingsError as error:
    st.error(words.plain(str(error)), icon=":material/error:")
    st.stop()

live = controls.current_run()
moving = live is not None and stage.is_moving(live)

try:
    config = draw_sidebar(defaults, running=moving)  # first, or it pushes the page aside
except SettingsError as error:
    st.error(words.plain(str(error)), icon=":material/error:")
    st.stop()

st.markdown("### SpeculatoViz :small[:gray[Speculative decoding, for real and in slow motion]]")
if live is not None:
    live.change(config.num_draft_tokens, config.sampler, config.draft)
controls.draw_status(config)
controls.draw_controls(config, moving=moving)
draw_connection(config, live, moving=moving)
stage.draw(moving=moving)
