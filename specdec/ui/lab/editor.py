"""The plan on the page: choices on the left write the file on the right, which is the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import streamlit as st

from specdec.codec import dumps
from specdec.drafters.recall import RecallDrafter
from specdec.errors import SettingsError, StoreError
from specdec.lab.plan import OWN_SERVER, PLAIN, Plan, Strategy
from specdec.lab.plan_file import parse_plan, split_prompts, split_strategies, write_plan
from specdec.lab.prompts import CLASSES, built_in, parse_prompts
from specdec.offers import Offers
from specdec.pair import draft_choices, target_choices
from specdec.saved.store import RunStore
from specdec.saved.sweeps import saved_prompts
from specdec.settings import MAX_MAX_TOKENS, MAX_NUM_DRAFT_TOKENS, Settings, is_endpoint
from specdec.view import words

MANY_PROMPTS = 40
"""A stored plan with more prompts than this has them in a file, lest the page become one."""
_TEXT_HEIGHT_PX = 520
_TEMPERATURES = ("0", "0.3", "0.7", "1")
_RTTS_MS = ("0", "10", "25", "50", "100", "200")
STYLE = "<style>.st-key-lab_text_box textarea {font-family: monospace}</style>"
_NO_ARMS = (PLAIN, RecallDrafter.name)
"""What cannot be chosen: one is always measured, the other would copy the cell before."""


def plan_text() -> str:
    """Return the plan as it stands in this tab."""
    text: str = st.session_state.setdefault("lab_plan_text", _first_text())
    return text


def _first_text() -> str:
    target = json.dumps(Settings.from_environment().run.target, ensure_ascii=False)
    return write_plan(
        parse_plan(f"name = 'My sweep'\ntarget = {target}\nrtt_ms = [0, 50]\nbudget_minutes = 30")
    )


def _files() -> dict[str, bytes]:
    files: dict[str, bytes] = st.session_state.setdefault("lab_files", {})
    return files


def open_plan(text: str) -> None:
    """Put a plan into the editor."""
    try:
        plan = parse_plan(text)
    except SettingsError:
        st.session_state.lab_plan_text = text  # and the editor says what is wrong with it
        return
    if len(plan.prompts) > MANY_PROMPTS:
        name = f"prompts-{plan.digest}.jsonl"
        lines = [dumps({"prompt": one.text, "class": one.kind}) for one in plan.prompts]
        _files()[name] = "\n".join(lines).encode()
        plan = replace(plan, file=name, num_from_file=len(plan.prompts))
        text = write_plan(plan, keeps_file=True)
    st.session_state.lab_plan_text = text


def draw_editor(store: RunStore) -> Plan | None:
    """Draw the plan and return it, None where it is none yet; the page then says why."""
    text = plan_text()
    plan, error = None, st.session_state.pop("lab_refused", "")
    try:
        plan = parse_plan(text, uploaded=_files())
    except SettingsError as failure:
        error = str(failure)
    with st.expander("Plan", expanded=True, icon=":material/edit_note:", key="lab_plan"):
        choices, file = st.columns(2, gap="medium")
        with choices:
            _draw_choices(plan)
        with file:
            _draw_file(text, store)
    if error:
        st.error(words.plain(error[:1].upper() + error[1:]), icon=":material/error:")
    return plan


# -- the file ------------------------------------------------------------------------------------


def _draw_file(text: str, store: RunStore) -> None:
    st.session_state.lab_text_box = text
    st.text_area(
        "The plan as a file",
        key="lab_text_box",
        height=_TEXT_HEIGHT_PX,
        on_change=_take_text,
        help="TOML, checked as you edit it. The same file runs on the command line: "
        "python -m specdec sweep PLAN.toml. Everything it can say is in docs/lab.md.",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download the plan",
            text,
            file_name="plan.toml",
            mime="application/toml",
            icon=":material/download:",
            on_click="ignore",
            key="lab_download_plan",
        )
        with st.popover("Open files", icon=":material/upload:", key="lab_open"):
            st.file_uploader(
                "A plan (.toml), or prompts of your own",
                ["toml", "txt", "csv", "json", "jsonl"],
                key="lab_upload",
                on_change=_take_upload,
                help="Prompts: a text file with an empty line between them, CSV with a column "
                "prompt (and class), JSON Lines with prompt and class, or Spec-Bench's "
                "question.jsonl.",
            )
            st.button(
                "Take the prompts of saved runs",
                key="lab_saved_prompts",
                on_click=_take_saved_prompts,
                args=(store,),
                help=f"Of the latest runs in the history, {MANY_PROMPTS} at most, none twice.",
            )


def _take_text() -> None:
    st.session_state.lab_plan_text = st.session_state.lab_text_box


def _take_upload() -> None:
    file = st.session_state.lab_upload
    if file is None:
        return
    name, data = file.name, file.getvalue()
    try:
        if name.lower().endswith(".toml"):
            open_plan(data.decode("utf-8-sig"))
        else:
            _take_prompts(name, data)
    except UnicodeDecodeError:
        st.session_state.lab_refused = f"{name} is not text in UTF-8: save it in that encoding."
    except SettingsError as error:
        st.session_state.lab_refused = str(error)


def _take_saved_prompts(store: RunStore) -> None:
    """Make a file of the prompts in the history, and name it in the plan."""
    try:
        found = [dumps({"prompt": one}) for one in saved_prompts(store, MANY_PROMPTS)]
        _take_prompts("saved-runs.jsonl", "\n".join(found).encode())
    except (SettingsError, StoreError) as error:
        st.session_state.lab_refused = str(error)


def _take_prompts(name: str, data: bytes) -> None:
    """Name a file of prompts in the plan, in place of the one it named before."""
    found = parse_prompts(name, data)
    plan = parse_plan(plan_text(), uploaded=_files())
    kept = plan.prompts[: len(plan.prompts) - plan.num_from_file]
    named = replace(plan, prompts=(*kept, *found), file=name, num_from_file=len(found))
    _files()[name] = data
    st.session_state.lab_plan_text = write_plan(named, keeps_file=True)


# -- the choices ---------------------------------------------------------------------------------


def _draw_choices(plan: Plan | None) -> None:
    """Draw the widgets, which show the plan; one that is no plan keeps them still."""
    _show_in_widgets(plan)
    common: dict[str, Any] = {"on_change": _take_choices, "disabled": plan is None}
    takes_names = Offers.from_environment().takes_names
    target = st.session_state.get("lab_target") or ""
    st.text_input("Name", key="lab_name", **common)
    st.selectbox(
        "Target",
        list(dict.fromkeys([*target_choices(), *([target] if target else [])])),
        key="lab_target",
        accept_new_options=takes_names,
        help="The model whose answers are wanted; it decides every token.",
        **common,
    )
    drafts = [name for name in draft_choices(target) if name not in _NO_ARMS] if target else []
    drafts += [OWN_SERVER] if is_endpoint(target) else []
    st.multiselect(
        "Drafts",
        list(dict.fromkeys([*drafts, *st.session_state.get("lab_drafts", ())])),
        key="lab_drafts",
        accept_new_options=takes_names,
        help="What proposes tokens, each with every K. Plain decoding is always measured too. For "
        "a target behind a server, server is its own streaming, speculating or not.",
        **common,
    )
    _numbers("Drafted tokens per round, K", "lab_k", map(str, range(1, 17)), common)
    left, right = st.columns(2)
    with left:
        _numbers("Temperatures", "lab_temperatures", _TEMPERATURES, common)
    with right:
        _numbers("Emulated round trips, ms", "lab_rtt_ms", _RTTS_MS, common)
    st.multiselect(
        "Built-in prompts",
        list(CLASSES),
        key="lab_classes",
        help="Acceptance belongs to the kind of text: choose what your traffic looks like, or "
        "open a file of your own prompts.",
        **common,
    )
    for column, (label, key, least, most, meaning) in zip(
        st.columns(3),
        (
            ("Prompts of each", "lab_per_class", 1, 8, "Of each built-in class."),
            ("Tokens, at most", "lab_max_tokens", 1, MAX_MAX_TOKENS, "Of each answer."),
            ("Minutes, at most", "lab_budget", 0, 10_000, "0: no limit. Later it goes on there."),
        ),
        strict=True,
    ):
        column.number_input(label, least, most, key=key, help=meaning, **common)
    with st.container(horizontal=True):
        st.toggle(
            "Leave what is decided",
            key="lab_stops_early",
            help="A condition whose fastest arm is beyond doubt is not measured further.",
            **common,
        )
        st.toggle(
            "Predict K and links",
            key="lab_predicts",
            help="Measures each draft at its largest K over the shortest link, predicts the rest "
            "from acceptance by position and measured costs, and measures a tenth of that too, "
            "which says how good the predictions are.",
            **common,
        )


def _numbers(label: str, key: str, choices: Any, common: dict[str, Any]) -> None:
    shown = dict.fromkeys([*choices, *st.session_state.get(key, ())])
    st.multiselect(label, sorted(shown, key=float), key=key, accept_new_options=True, **common)


def _show_in_widgets(plan: Plan | None) -> None:
    """Set every widget to what the plan says."""
    if plan is None:
        return
    chains, _ = split_strategies(plan.strategies)
    kinds, per_class, _ = split_prompts(plan.prompts)
    st.session_state.update(
        lab_name=plan.name,
        lab_target=plan.target,
        lab_drafts=[one.draft for one in chains],
        lab_k=[str(k) for k in (chains[0].k if chains else ())],
        lab_temperatures=[f"{one:g}" for one in plan.temperatures],
        lab_rtt_ms=[f"{one:g}" for one in plan.rtt_ms],
        lab_classes=kinds,
        lab_per_class=min(per_class, 8),
        lab_max_tokens=plan.max_tokens,
        lab_budget=round(plan.budget_minutes or 0),
        lab_stops_early=plan.stops_early,
        lab_predicts=plan.predicts,
    )


def _take_choices() -> None:
    """Write the plan anew as the widgets say."""
    try:
        plan = parse_plan(plan_text(), uploaded=_files())
        st.session_state.lab_plan_text = write_plan(_chosen(plan), keeps_file=True)
    except SettingsError as error:
        st.session_state.lab_refused = str(error)


def _chosen(plan: Plan) -> Plan:
    state = st.session_state
    ks = tuple(sorted(int(one) for one in _floats("lab_k")))
    if any(not 0 < k <= MAX_NUM_DRAFT_TOKENS for k in ks):
        raise SettingsError(f"K lies between 1 and {MAX_NUM_DRAFT_TOKENS}.")
    _, others = split_strategies(plan.strategies)
    chains = [Strategy(draft, ks) for draft in state.lab_drafts] if ks else []
    _, _, given = split_prompts(plan.prompts)
    return replace(
        plan,
        name=state.lab_name,
        target=state.lab_target,
        strategies=(*chains, *others),
        temperatures=_floats("lab_temperatures"),
        rtt_ms=_floats("lab_rtt_ms"),
        prompts=(*built_in(state.lab_classes, state.lab_per_class), *given),
        max_tokens=state.lab_max_tokens,
        budget_minutes=float(state.lab_budget) or None,
        stops_early=state.lab_stops_early,
        predicts=state.lab_predicts,
    )


def _floats(key: str) -> tuple[float, ...]:
    """Return the numbers of a widget that takes any text.

    Raises:
        SettingsError: one is none, or there is none at all.
    """
    try:
        found = {float(one) for one in st.session_state[key]}
    except ValueError:
        raise SettingsError("Only numbers can be added there.") from None
    if not found:
        raise SettingsError("Choose at least one number there.")
    return tuple(sorted(found))
