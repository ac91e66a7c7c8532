"""The history page: find saved runs, look at one, compare several, play one back."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError, StoreError
from specdec.ui import notice, panels
from specdec.ui.history import compare as history_compare
from specdec.ui.history import files as history_files
from specdec.ui.history import list as history_list
from specdec.ui.history import run as history_run
from specdec.ui.history.store import run_store, showing_waits
from specdec.view import words

st.set_page_config(page_title="History · SpeculatoViz", page_icon=str(panels.ICON), layout="wide")
panels.draw_style()
panels.draw_navigation()
st.html(history_compare.STYLE)
st.markdown("### History :small[:gray[Every run, kept the moment it ended]]")

try:
    with showing_waits():
        store = run_store()
        notice.draw(store, history_list.choose_again)
        history_list.draw_search()
        with st.container(horizontal=True, vertical_alignment="center", key="tools"):
            where = history_list.draw_filters(store)
            history_files.draw_import(store)
            history_list.draw_sort()
        chosen = history_list.draw_table(store, where)
        if len(chosen) == 1:
            history_run.draw(store, chosen[0])
        elif chosen:
            history_compare.draw(store, chosen)
        elif store.count():
            st.caption("Select a run to look at it, or two and more to compare them.")
except (SettingsError, StoreError) as error:
    st.error(words.plain(str(error)), icon=":material/error:")
