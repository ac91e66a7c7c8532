"""The sidebar: what to run, as widgets whose values are shared in the URL.

A model that is typed in (a folder, say) and a server are no part of the URL: a link that somebody
sends must not open a path on this machine, nor choose what may cost something. `specdec.ui.kept`
holds them while the visitor is on another page.
"""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from specdec.block import RULES
from specdec.drafters.none import NoDrafter
from specdec.errors import SettingsError
from specdec.offers import Offers
from specdec.pair import draft_choices, takes_tree, target_choices
from specdec.policies.named import POLICIES
from specdec.settings import (
    MAX_MAX_TOKENS,
    MAX_NUM_DRAFT_TOKENS,
    RunConfig,
    default_draft,
    is_endpoint,
)
from specdec.ui import kept
from specdec.ui.live.place import choose_place
from specdec.ui.live.presets import LINKS, TREES

MAX_TOP_K = 1_000_000
_TOKENS_STEP = 32
_MAX_SEED = 2**53 - 1
"""The largest whole number that a browser can hold."""
_FIXED = "Fixed while a run goes on; the next run takes it."
_LIVE = "May be changed while a run goes on, and takes effect in the next round."


def draw_sidebar(defaults: RunConfig, *, running: bool) -> RunConfig:
    """Draw the settings and return them as they stand.

    Raises:
        SettingsError: a value cannot be used.
    """
    with st.sidebar:
        target = _target(defaults, disabled=running)
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
            disabled=draft == "none",
            help="fixed: K as it is set. adaptive: the K that promises most tokens per second by "
            "this run's acceptance and costs, 0 included. hf: two more after a draft that was "
            "accepted whole, else one fewer. entropy: no further than the draft is sure. "
            f"The last three begin with K as it is set. {_LIVE}",
        )
        tree = _tree(defaults.tree, draft)
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
            min(0.05, defaults.top_p),
            1.0,
            defaults.top_p,
            0.05,
            key="top_p",
            bind="query-params",
            help="Only the likeliest tokens that together hold this share of the probability "
            f"may be chosen; 1 switches it off. {_LIVE}",
        )
        max_tokens = st.number_input(
            "Most tokens to write",
            1,
            MAX_MAX_TOKENS,
            defaults.max_tokens,
            _TOKENS_STEP,
            key="max_tokens",
            bind="query-params",
            disabled=running,
            help=f"The run ends here if the model has not ended by itself. {_FIXED}",
        )
        rtt_ms = _link(defaults.rtt_ms, target, running=running)
        with st.expander("More settings"):
            top_k = st.number_input(
                "Top-k",
                0,
                MAX_TOP_K,
                min(MAX_TOP_K, defaults.top_k),
                key="top_k",
                bind="query-params",
                help="Only this many of the likeliest tokens may be chosen; 0 switches it off. "
                f"{_LIVE}",
            )
            seed = st.number_input(
                "Seed",
                0,
                _MAX_SEED,
                min(_MAX_SEED, defaults.seed),
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
                help="token: each drafted token is tested by itself. block: the tokens of a chain "
                "are tested together, which accepts a little more above temperature 0. Both keep "
                "the target's distribution. (Typical acceptance, as Medusa has it, does not, so "
                f"it is not here.) {_LIVE}",
            )
            st.toggle(
                "Height: how unsure the target is",
                True,
                key="by_entropy",
                persist_state="session",
                help="A token's box in the tree is the higher, the larger the entropy of the "
                "target's distribution at its place: 0 to 4 nats.",
            )
            st.toggle(
                "Strength: chance to be accepted",
                True,
                key="by_acceptance",
                persist_state="session",
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
        temperature=round(temperature, 4),
        top_k=int(top_k),
        top_p=round(top_p, 4),
        max_tokens=int(max_tokens),
        seed=int(seed),
        rtt_ms=rtt_ms,
        jitter_ms=defaults.jitter_ms if rtt_ms else 0.0,
        tree=tree,
        policy=policy,
        rule=rule,
    )


def _tree(default: str, draft: str) -> str:
    """Return the shape of the draft: nothing for a chain, or where no model drafts."""
    names = dict(TREES)
    default = kept.unshared("tree") or default
    if default not in names.values():
        names[default] = default
    name = st.selectbox(
        "Shape of the draft",
        list(names),
        list(names.values()).index(default),
        key="tree",
        bind="query-params",
        disabled=not takes_tree(draft),
        help="A chain has one token at each position. In a tree several stand beside each other, "
        "so that one may pass where another fails: 3-2-1 is three first tokens, two after each, "
        "one after each of these, K deep at most. Auto grows where the draft is sure, K tokens "
        "in all. Best is the shape that promises most tokens per second by this run's acceptance "
        f"and costs, K deep at most. The target scores all of them in one call. {_LIVE}",
    )
    return names[name] if takes_tree(draft) else ""


def _link(default_ms: float, target: str, *, running: bool) -> float:
    """Return the round trip of the emulated link; a server has a real one."""
    names = dict(LINKS)
    default_ms = float(kept.unshared("rtt_ms") or default_ms)
    if default_ms not in names.values():
        names[f"{default_ms:g} ms"] = default_ms
    is_server = is_endpoint(target)
    name = st.selectbox(
        "Emulated link to the target",
        list(names),
        list(names.values()).index(default_ms),
        key="link",
        bind="query-params",
        disabled=running or is_server,
        help="Emulated: a real wait of this round-trip time around every call of the target, "
        "as if it stood that far away. A target behind a server has a real link, and none is "
        f"emulated. {_FIXED}",
    )
    return 0.0 if is_server else names[name]


def _target(defaults: RunConfig, *, disabled: bool) -> str:
    choices = target_choices()
    shareable = {name for name in (*choices, defaults.target) if not is_endpoint(name)}
    default = _default("target", defaults.target, shareable)
    names, takes_names = _names("target", choices, (defaults.target, default))
    if not names:
        raise SettingsError(
            "This machine offers no target: its owner has to list one in SPECDEC_MODELS or "
            "SPECDEC_TARGETS."
        )
    name = st.selectbox(
        "Target",
        names,
        names.index(default) if default in names else 0,
        key="target",
        disabled=disabled,
        on_change=_take_target,
        args=(defaults,),
        accept_new_options=takes_names,
        help="The model that decides: the text follows its distribution, whatever the draft "
        f"proposes. {_typing(takes_names)}{_FIXED}",
    )
    assert name is not None
    _share("target", name, shareable, unless=defaults.target)
    if name not in choices and name != defaults.target:
        Offers.from_environment().check_target(name)  # before anything is looked up
    return name


def _take_target(defaults: RunConfig) -> None:
    """Give a newly chosen target the draft it had when it was last drawn, or its default."""
    target = st.session_state.target
    drafts: dict[str, str] = st.session_state.setdefault("drafts", {})
    st.session_state.draft = drafts.get(target) or _default_draft(defaults, target)


def _typing(takes_names: bool) -> str:
    if not takes_names:
        return ""
    return (
        "Or type another one, and press Enter: a Hugging Face repository id, a local folder in "
        "Hugging Face form, or a local .gguf file. Draft and target need the same vocabulary. "
        "What is typed is not part of the shared link. "
    )


# Streamlit's own binding to the address would put there what was typed, before it can be stopped.


def _default(role: str, default: str, shareable: Collection[str]) -> str:
    """Return what a box begins with: of the address, of the session, or `default`."""
    from_link = st.query_params.get(role, "")
    if from_link in shareable:
        return from_link
    return kept.unshared(role) or default


def _share(role: str, name: str, shareable: Collection[str], *, unless: str) -> None:
    """Let the address name a choice, but neither what somebody typed nor a server.

    What it does not name is kept for when the visitor comes back from another page.
    """
    is_shareable = name in shareable
    kept.keep_unshared(role, "" if is_shareable else name)
    if is_shareable and name != unless:
        if st.query_params.get(role) != name:
            st.query_params[role] = name
    elif role in st.query_params:
        del st.query_params[role]


def _names(role: str, choices: Collection[str], more: Collection[str]) -> tuple[list[str], bool]:
    """Return what a box offers, and whether it takes other names too."""
    if not Offers.from_environment().takes_names:
        return list(choices), False
    now = st.session_state.get(role)
    return list(dict.fromkeys([*choices, *more, *([now] if now else [])])), True


def _default_draft(defaults: RunConfig, target: str) -> str:
    """Return the draft of `.env` where it fits `target`, else the one that needs no choice."""
    if defaults.num_draft_tokens == 0:
        return NoDrafter.name
    of_its_target = defaults.draft == default_draft(defaults.target, defaults.backend)
    backend = str(st.session_state.get("backend", defaults.backend))
    return default_draft(target, backend) if of_its_target else defaults.draft


def _draft(usual: str, target: str) -> str:
    choices = draft_choices(target)
    shareable = {*choices, usual}
    default = _default("draft", usual, shareable)
    names, takes_names = _names("draft", choices, (usual, default))
    name = st.selectbox(
        "Draft",
        names,
        names.index(default) if default in names else 0,
        key="draft",
        accept_new_options=takes_names,
        help=f"What proposes tokens cheaply for the target to check. {_typing(takes_names)}{_LIVE}",
    )
    assert name is not None
    _share("draft", name, shareable, unless=usual)
    if name in choices:
        st.caption(choices[name].capitalize() + ".")
    st.session_state.setdefault("drafts", {})[target] = name
    return name
