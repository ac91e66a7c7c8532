"""The recipes beside each other, each with what there is to look at."""

from __future__ import annotations

import streamlit as st

from specdec.drafters.none import NoDrafter
from specdec.settings import RunConfig, default_draft
from specdec.ui.live.presets import EXAMPLE_PROMPTS, LINKS, RECIPES, Recipe


def draw(config: RunConfig, prompt: str, *, disabled: bool) -> None:
    """Draw every recipe; the one that the page is set to is marked."""
    for column, (name, recipe) in zip(st.columns(len(RECIPES)), RECIPES.items(), strict=True):
        is_set = recipe.is_set(config, prompt)
        with column.container(gap=None):
            st.button(
                name,
                key=key_of(name),
                icon=f":material/radio_button_{'' if is_set else 'un'}checked:",
                on_click=_take,
                args=(recipe, config),
                disabled=disabled,
                type="tertiary",
            )
            st.caption(recipe.look_at)


def key_of(name: str) -> str:
    """Return the key of a recipe's button."""
    return "recipe_" + name.replace(" ", "_").lower()


def _take(recipe: Recipe, config: RunConfig) -> None:
    """Set prompt and sidebar as the recipe says."""
    links = {rtt_ms: name for name, rtt_ms in LINKS.items()}
    asked = recipe.on(config)
    st.session_state.prompt = EXAMPLE_PROMPTS[recipe.prompt]
    st.session_state.k = asked.num_draft_tokens
    st.session_state.temperature = asked.temperature
    st.session_state.link = links[asked.rtt_ms]
    st.session_state.policy = asked.policy
    if config.draft == NoDrafter.name:  # or there would be nothing to see
        st.session_state.draft = default_draft(config.target, config.backend)
