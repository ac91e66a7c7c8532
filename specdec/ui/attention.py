"""What the target looked at in a round that is chosen, asked of it once more when wanted."""

from __future__ import annotations

import streamlit as st

from specdec.errors import SpecdecError
from specdec.models.base import LanguageModel
from specdec.pair import LoadedModel
from specdec.runs.attention import Attention, attention_of
from specdec.runs.run import Run
from specdec.settings import RunConfig
from specdec.targets.base import Wanted
from specdec.ui import dashboard, loaders
from specdec.view import attention as pictures
from specdec.view import words
from specdec.view.facts import TextOf

POOLED = ("mean", "maximum")


def draw(run: Run, identity: str) -> None:
    """Let a round be chosen and show what its tokens looked at, once that was asked for."""
    st.caption(
        "What each token of a round's tree could see, and how much of its attention the target "
        "gave to what. The target reads that round once more for it, outside every measurement."
    )
    refusal = _refusal(run)
    if refusal:
        st.info(words.plain(refusal), icon=":material/info:")
        return
    assert run.config is not None
    st.session_state.setdefault("attention_round", int(st.session_state.get("round", 1)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        number = st.number_input("Round", 1, len(run.rounds), key="attention_round", width=160)
        asked = st.button("Look", key="look", icon=":material/visibility:")
    place = (identity, int(number))
    if asked:
        try:
            with st.spinner(f"{words.plain(run.target.name)} reads the round once more …"):
                st.session_state.attention = (place, _look(run, run.config, int(number) - 1))
        except SpecdecError as failure:
            st.error(words.plain(str(failure)), icon=":material/error:")
            return
    kept = st.session_state.get("attention")
    if kept is not None and kept[0] == place:
        _draw_round(*kept[1])


def _refusal(run: Run) -> str | None:
    """Say why there is nothing to be seen of this run's target, as far as that is known now."""
    if run.config is None:
        return "It is not known what this run was made with, so its target cannot be asked."
    if run.config.is_remote:
        return (
            "The target of this run is behind a server, which tells no attention weights; run a "
            "model on this machine to see them."
        )
    loaded = loaders.model_shelf().loaded(run.config.target, run.config.place)
    return None if loaded is None else loaded.target.cannot_give(Wanted(attention=True))


def _look(run: Run, config: RunConfig, number: int) -> tuple[Attention, TextOf]:
    """Open the target if it is not open and have it read a round, counted from 0.

    Raises:
        SpecdecError: it cannot be opened, is another one, or gives no attention weights.
    """
    loaded = loaders.model_shelf().await_model(config.target, config.place, lambda: None)
    model = _own(run, loaded)
    attention = attention_of(model, run.prompt_ids, run.rounds, number)
    return attention, loaded.own_tokenizer.token_text


def _own(run: Run, loaded: LoadedModel) -> LanguageModel:
    if run.target.digest and loaded.digest and run.target.digest != loaded.digest:
        raise SpecdecError(
            f"The weights of {run.target.name} on this machine are not those of this run; what "
            "they look at would not be what it looked at."
        )
    if loaded.model is None:
        raise SpecdecError(f"The weights of {run.target.name} are not on this machine.")
    return loaded.model


def _draw_round(attention: Attention, text_of: TextOf) -> None:
    nodes, layers, heads = st.columns([3, 1, 1])
    node = nodes.selectbox(
        "Token that looks",
        range(-1, len(attention.tree)),
        min(len(attention.tree), 1),
        format_func=lambda one: pictures.node_label(attention, one, text_of),
        key=f"attention_node_{attention.round}",
        help="A token of the tree, told by its path; 0 is the last token before it.",
    )
    layer = layers.number_input(
        "Layer", 1, attention.num_layers, (attention.num_layers + 1) // 2, key="attention_layer"
    )
    head = heads.selectbox(
        "Head",
        [*POOLED, *range(attention.num_heads)],
        format_func=lambda one: str(one + 1) if isinstance(one, int) else f"{one} of all",
        key="attention_head",
        help="One head, or over all heads of the layer the mean or the maximum of what each token "
        "got. Maxima do not add up to 100 %.",
    )
    weights = attention.of(node, int(layer) - 1, head)
    before, tree = pictures.shaded_html(attention, node, int(layer) - 1, head, text_of)
    st.html(f"<style>{pictures.style(len(attention.tree), node)}</style>")
    text, mask = st.columns([3, 2], gap="medium")
    with text.container(key=pictures.STUDY):
        st.markdown(
            "**What it looked at**",
            help="The darker a token, the more attention it got (by the square root, the most but "
            "for the very first token being darkest). Outlined: the token that looks. Point at "
            "another one of the tree, or go there with the Tab key, to see what that one looked "
            "at. Struck through: not to be seen from there.",
        )
        parts = pictures.shares(attention, weights).items()
        told = ", ".join(f"{words.percent(share)} to {name}" for name, share in parts)
        st.caption(words.plain(f"Of all it gave: {told}."))
        with st.container(height=240, border=True):
            st.html(before)
        if len(attention.tree):
            st.caption("The tree: point at a token to see what it looked at, here and above")
            st.html(tree)
    with mask:
        dashboard.draw_chart(
            "Tree mask",
            "One row per token fed: it sees the text before the tree and its path, that is "
            "its ancestors and itself, but no sibling. Numbers count from the first token of the "
            f"tree, which is 1; of the text the last {pictures.MAX_TEXT_COLUMNS} tokens are drawn.",
            pictures.mask_data(attention, text_of),
            pictures.mask_spec(),
            "Which tokens of the text and of the tree each token of the tree sees",
            height_px=min(420, 170 + 24 * (1 + len(attention.tree))),
        )
