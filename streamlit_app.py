"""The live page: read the settings, run, draw."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SettingsError
from specdec.live.pump import Save
from specdec.live.shelf import ModelShelf
from specdec.settings import Settings
from specdec.ui import kept, loaders, panels
from specdec.ui.history.store import save_run
from specdec.ui.live import controls, presets, stage
from specdec.ui.live.connection import draw_connection
from specdec.ui.live.sidebar import draw_sidebar
from specdec.ui.live.watch import Watch, unwatched
from specdec.view import words


def draw_page(
    shelf: ModelShelf, save: Save, *, watch: Watch = unwatched, has_history: bool = True
) -> None:
    """Draw the page from top to bottom.

    Args:
        shelf: where the weights stand.
        save: takes each run when it is over.
        watch: told of each part of a redraw.
        has_history: whether the history page stands beside it.
    """
    # A file, because Streamlit fetches emoji and Material icons for the tab from another host.
    st.set_page_config(page_title="SpeculatoViz", page_icon=str(panels.ICON), layout="wide")
    panels.draw_style()
    if has_history:
        kept.bring_back_live()
        panels.draw_navigation()

    controls.bring_back()
    live = controls.current_run()
    moving = live is not None and stage.is_moving(live)

    try:
        defaults = presets.opening(Settings.from_environment().run)
        config = draw_sidebar(defaults, running=moving)  # first, or it pushes the page aside
    except SettingsError as error:
        st.error(words.plain(str(error)), icon=":material/error:")
        st.stop()

    if live is not None:
        live.change(config)
    controls.draw_status(config, shelf)
    controls.draw_controls(config, shelf, save, moving=moving)
    controls.draw_refusal()
    kept.keep_live(config, st.session_state.prompt, defaults, controls.default_prompt())
    draw_connection(config, shelf, live, moving=moving)
    stage.draw(moving=moving, watch=watch)
    if not config.is_remote:
        loaders.import_kernels_early(config.place)


if __name__ == "__main__":
    draw_page(loaders.model_shelf(), save_run)
