"""The sidebar: what to run, as widgets whose values are shared in the URL.

A model that is typed in (a folder, say) is no part of the URL: a link that somebody sends must
not open a path on this machine.
"""

from __future__ import annotations

import streamlit as st

from specdec.block import RULES
from specdec.errors import SettingsError
from specdec.offers import Offers
from specdec.pair import draft_choices, takes_tree, target_choices
from specdec.policies.named import POLICIES
from specdec.settings import MAX_NUM_DRAFT_TOKENS, RunConfig, default_draft, is_endpoint
from specdec.ui.live.place import choose_place
from specdec.ui.live.presets import LINKS, TREES

OTHER = "another model …"
_MIN_TOKENS, _MAX_TOKENS, _TOKENS_STEP = 64, 1024, 64
_FIXED = "Fixed while a run goes on; the next run takes it."
_LIVE = "May be changed while a run goes on, and takes effect in the next round."


def draw_sidebar(defaults: RunConfig, *, running: bool) -> RunConfig:
    """Draw the settings and return them as they stand.

    Raises:
        SettingsError: a value cannot be used.
    """
    with st.sidebar:
        target = _target(defaults.target, disabled=running)
        draft = _draft(_default_draft(defaults, target), target)
        num_draft_tokens = st.slider(
            "Drafted tokens per round, K",
            1,
            MAX_NUM_DRAFT_TOKENS,
            max(1, defaults.num_draft_tokens),
            key="k",
            bind="query-params",
            disabled=draft == "none",
            help="How many tokens the draft proposes before the target checks them all in one "
            f"call. {_LIVE}",
        )
        policy = st.selectbox(
            "K is decided by",
            list(POLICIES),
            list(POLICIES).index(defaults.policy),
            key="policy",
            bind="query-params",
            disabled=running or draft == "none",
            help="fixed: K as it is set. adaptive: the K that promises most tokens per second by "
            "this run's acceptance and costs, 0 included. hf: two more after a draft that was "
            "accepted whole, else one fewer. entropy: no further than the draft is sure. "
            f"The last three begin with K as it is set. {_FIXED}",
        )
        tree = _tree(defaults.tree, draft, running=running)
        temperature = st.slider(
            "Temperature",
            0.0,
            2.0,
            defaults.temperature,
            0.05,
            key="temperature",
            bind="query-params",
            help="0 takes the likeliest token each time (greedy); higher values are more "
            f"adventurous. Draft and target use the same. {_LIVE}",
        )
        top_p = st.slider(
            "Top-p",
            0.05,
            1.0,
            defaults.top_p,
            0.05,
            key="top_p",
            bind="query-params",
            help="Only the likeliest tokens that together hold this share of the probability "
            f"may be chosen; 1 switches it off. {_LIVE}",
        )
        max_tokens = st.slider(
            "Most tokens to write",
            _MIN_TOKENS,
            _MAX_TOKENS,
            _allowed_tokens(defaults.max_tokens),
            _TOKENS_STEP,
            key="max_tokens",
            bind="query-params",
            disabled=running,
            help=f"The run ends here if the model has not ended by itself. {_FIXED}",
        )
        link = st.selectbox(
            "Emulated link to the target",
            list(LINKS),
            key="link",
            bind="query-params",
            disabled=running,
            help="Emulated: a real wait of this round-trip time around every call of the target, "
            f"as if it stood that far away. {_FIXED}",
        )
        with st.expander("More settings"):
            seed = st.number_input(
                "Seed",
                0,
                2**31 - 1,
                defaults.seed,
                key="seed",
                bind="query-params",
                disabled=running,
                help=f"The same seed and settings give the same run. {_FIXED}",
            )
            place = choose_place(target, defaults, running=running)
            rule = st.selectbox(
                "Rule of verification",
                list(RULES),
                list(RULES).index(defaults.rule),
                key="rule",
                bind="query-params",
                disabled=running,
                help="token: each drafted token is tested by itself. block: the tokens of a chain "
                "are tested together, which accepts a little more above temperature 0. Both keep "
                "the target's distribution. (Typical acceptance, as Medusa has it, does not, so "
                f"it is not here.) {_FIXED}",
            )
            st.toggle(
                "Height: how unsure the target is",
                True,
                key="by_entropy",
                help="A token's box in the tree is the higher, the larger the entropy of the "
                "target's distribution at its place: 0 to 4 nats.",
            )
            st.toggle(
                "Strength: chance to be accepted",
                True,
                key="by_acceptance",
                help="A box is the stronger in colour, the likelier it was to be accepted. What "
                "was rejected is always at full strength.",
            )
    return RunConfig(
        target=target,
        draft=draft,
        backend=place.backend,
        device=place.device,
        one_row=place.one_row,
        num_draft_tokens=0 if draft == "none" else num_draft_tokens,
        temperature=round(temperature, 2),
        top_p=round(top_p, 2),
        max_tokens=max_tokens,
        seed=int(seed),
        rtt_ms=LINKS[link],
        tree=tree,
        policy=policy,
        rule=rule,
    )


def _tree(default: str, draft: str, *, running: bool) -> str:
    """Return the shape of the draft: nothing for a chain, or where no model drafts."""
    names = dict(TREES)
    if default not in names.values():
        names[default] = default
    name = st.selectbox(
        "Shape of the draft",
        list(names),
        list(names.values()).index(default),
        key="tree",
        bind="query-params",
        disabled=running or not takes_tree(draft),
        help="A chain has one token at each position. In a tree several stand beside each other, "
        "so that one may pass where another fails: 3-2-1 is three first tokens, two after each, "
        "one after each of these, K deep at most. Auto grows where the draft is sure, K tokens "
        "in all. Best is the shape that promises most tokens per second by this run's acceptance "
        f"and costs, K deep at most. The target scores all of them in one call. {_FIXED}",
    )
    return names[name] if takes_tree(draft) else ""


def _target(default: str, *, disabled: bool) -> str:
    from_link = st.query_params.get("target", "")
    if is_endpoint(from_link):
        del st.query_params["target"]  # nobody's link chooses a server, which may cost something
    names = _names(target_choices(), default)
    if not names:
        raise SettingsError(
            "This machine offers no target: its owner has to list one in SPECDEC_MODELS or "
            "SPECDEC_TARGETS."
        )
    is_server = any(map(is_endpoint, (from_link, str(st.session_state.get("target", default)))))
    name = st.selectbox(
        "Target",
        names,
        names.index(default) if default in names else 0,
        key="target",
        bind=None if is_server else "query-params",  # no endpoint in a shared link
        disabled=disabled,
        help="The model that decides: the text follows its distribution, whatever the draft "
        f"proposes. {_FIXED}",
    )
    if name != OTHER:
        return name
    typed = _typed("target", disabled=disabled)
    if typed:
        Offers.from_environment().check_target(typed)  # before anything is looked up
    return typed


def _names(choices: list[str], default: str) -> list[str]:
    """Return what a box offers: the choices, the default of `.env`, and any other if allowed."""
    offers = Offers.from_environment()
    if not offers.takes_names:
        return choices
    return [*choices, *({default} - set(choices)), OTHER]


def _default_draft(defaults: RunConfig, target: str) -> str:
    """Return the draft of `.env` where it fits `target`, else the one that needs no choice."""
    of_its_target = defaults.draft == default_draft(defaults.target)
    return default_draft(target) if of_its_target else defaults.draft


def _draft(default: str, target: str) -> str:
    choices = draft_choices(target)
    names = _names(list(choices), default)
    name = st.selectbox(
        "Draft",
        names,
        names.index(default) if default in names else 0,
        key="draft",
        bind="query-params",
        help=f"What proposes tokens cheaply for the target to check. {_LIVE}",
    )
    if name in choices:
        st.caption(choices[name].capitalize() + ".")
    return _typed("draft", disabled=False) if name == OTHER else name


def _typed(role: str, *, disabled: bool) -> str:
    return st.text_input(
        f"Name of the {role} model",
        key=f"{role}_name",
        placeholder="organisation/name, a folder, or a .gguf file",
        disabled=disabled,
        help="A Hugging Face repository id, a local folder in Hugging Face form, or a local .gguf "
        "file. Draft and target need the same vocabulary. Not part of the shared link.",
    ).strip()


def _allowed_tokens(value: int) -> int:
    """Return the nearest value that the slider can show."""
    steps = round(value / _TOKENS_STEP)
    return min(_MAX_TOKENS, max(_MIN_TOKENS, steps * _TOKENS_STEP))
