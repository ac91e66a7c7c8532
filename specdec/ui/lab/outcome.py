"""What a sweep came to: the recommendation, heat maps, acceptance, waste, and single prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import streamlit as st

from specdec.lab.advice import Advice, advise, conditions_to_advise, sentences
from specdec.lab.configurations import configurations
from specdec.lab.findings import PromptGain, acceptance_by_position, extremes, prompt_gains
from specdec.lab.plan import Arm, Plan
from specdec.lab.predict import Check, median_error
from specdec.lab.report import Report, cells_csv, document_text, make_report, vllm_lines
from specdec.lab.results import Condition, Results
from specdec.saved.store import RunStore
from specdec.ui import dashboard
from specdec.ui.history import replay as history_replay
from specdec.view import lab_charts as charts
from specdec.view import words
from specdec.view.charts import Data
from specdec.view.facts import visible
from specdec.view.lab_report import report_page

ALL = "all prompts"
_HEAT_MEANING = (
    "Tokens per second over those of plain decoding on the same prompts: blue is faster, orange "
    "slower. ★ is the fastest in its condition; what these prompts do not tell from it has a "
    "yellow frame. Striped cells are predicted, not run."
)
_PROMPT_CHARS = 160


def choose_condition(plan: Plan) -> Condition:
    """Draw what the results are narrowed to, and return it."""
    kinds = sorted({prompt.kind for prompt in plan.prompts})
    kind, temperature, rtt_ms = ALL, plan.temperatures[0], plan.rtt_ms[0]
    with st.container(horizontal=True, vertical_alignment="bottom", key="lab_condition"):
        if len(kinds) > 1:
            kind = st.selectbox("Prompts", [ALL, *kinds], key="lab_kind", width=200)
        if len(plan.temperatures) > 1:
            temperature = st.selectbox(
                "Temperature", plan.temperatures, format_func=_short, key="lab_temp", width=140
            )
        if len(plan.rtt_ms) > 1:
            rtt_ms = st.selectbox(
                "Emulated round trip, ms",
                plan.rtt_ms,
                format_func=_short,
                key="lab_rtt",
                width=190,
            )
    return Condition(temperature, rtt_ms, "" if kind == ALL else kind)


def _short(value: float) -> str:
    return f"{value:g}"


def draw(plan: Plan, results: Results, checks: Sequence[Check], condition: Condition) -> None:
    """Draw the results under a condition; they may still be growing."""
    if not results.outcomes(condition):
        st.caption("Nothing is measured here yet.")
        return
    draw_advice(plan, results, condition)
    _draw_maps(plan, results, condition)
    error = median_error(checks)
    if plan.predicts and error is not None:
        st.caption(
            words.plain(
                f"Striped cells are predicted. On {len(checks)} cells that were run to check them, "
                f"the median error of tokens per second is {words.percent(error)}."
            )
        )
    left, right = st.columns(2)
    with left:
        _draw_positions(plan, results, condition)
    with right:
        dashboard.draw_chart(
            "Speed against waste",
            "Each point is an arm. Wasted: drafted tokens that were not accepted, per token "
            "written, which on a paid target are billed. On the dashed line is what no other arm "
            "beats in both; hollow points are predicted.",
            charts.pareto_data(results.outcomes(condition)),
            charts.pareto_spec(),
            "Times plain decoding against drafted tokens wasted, a point for each arm",
            height_px=300,
        )


# -- the recommendation --------------------------------------------------------------------------


def draw_advice(plan: Plan, results: Results, condition: Condition) -> None:
    """Draw what to run, why, until when, and the lines to paste."""
    advice = advise(results, condition)
    if advice is None:
        st.caption("A recommendation comes once plain decoding and a draft are measured here.")
        return
    with st.container(border=True, key="lab_advice"):
        first, *others = sentences(advice)
        st.markdown(f"**Recommended.** {words.plain(first)}")
        if others:
            st.markdown(words.plain(" ".join(others)))
        by_class = _by_class(plan, results, condition)
        if by_class and not condition.kind:
            with st.expander("By class of prompts"):
                for one in by_class:
                    said = " ".join(sentences(one))
                    st.markdown(f"- **{words.plain(one.condition.kind)}**: {words.plain(said)}")
        _draw_configurations(plan, advice.best.arm)


def _by_class(plan: Plan, results: Results, condition: Condition) -> list[Advice]:
    places = conditions_to_advise(plan, condition.temperature, condition.rtt_ms)[1:]
    found = (advise(results, place) for place in places)
    return [one for one in found if one is not None]


def _draw_configurations(plan: Plan, arm: Arm) -> None:
    with st.expander("Take it to your server", icon=":material/content_copy:"):
        made = configurations(plan, arm)
        for tab, one in zip(st.tabs([one.server for one in made]), made, strict=True):
            with tab:
                if one.text:
                    st.code(one.text, language=one.language, wrap_lines=True)
                st.caption(words.plain(f"{one.version}. {one.note}".strip()))


# -- pictures ------------------------------------------------------------------------------------


def _draw_maps(plan: Plan, results: Results, condition: Condition) -> None:
    by_temperature = _along(results, [replace(condition, temperature=t) for t in plan.temperatures])
    by_link = _along(results, [replace(condition, rtt_ms=rtt) for rtt in plan.rtt_ms])
    if len(plan.temperatures) > 1 or len(plan.rtt_ms) == 1:
        data = charts.heat_data(by_temperature, "temperature")
        _draw_map("Speed by K and temperature", f"{condition.rtt_ms:g} ms round trip", data)
    if len(plan.rtt_ms) > 1:
        data = charts.heat_data(by_link, "round trip")
        _draw_map("Speed by K and round trip", f"temperature {condition.temperature:g}", data)


def _along(results: Results, places: Sequence[Condition]) -> charts.Map:
    return {place: outcomes for place in places if (outcomes := results.outcomes(place))}


def _draw_map(title: str, at: str, data: Data) -> None:
    dashboard.draw_chart(
        f"{title}, at {at}",
        _HEAT_MEANING,
        data,
        charts.heat_spec(),
        f"{title}: times plain decoding for each draft and K",
        height_px=charts.heat_height_px(data),
    )


def _draw_positions(plan: Plan, results: Results, condition: Condition) -> None:
    rates = acceptance_by_position(results, plan.arms, condition.temperature)
    labels = list(dict.fromkeys(label for label, _ in rates))
    if not labels:
        return
    label = labels[0]
    if len(labels) > 1:
        label = st.selectbox("Draft", labels, key="lab_position_of", label_visibility="collapsed")
    of_draft = {kind: rate for (name, kind), rate in rates.items() if name == label}
    dashboard.draw_chart(
        "Acceptance by position",
        "The share of rounds with a draft in which every token up to this position was accepted, "
        "measured, for each class of prompts: over all links, at the draft's largest K.",
        charts.position_data(of_draft),
        charts.position_spec(),
        f"Acceptance by position of {label}, a line for each class of prompts",
        height_px=260,
    )


# -- to take away --------------------------------------------------------------------------------


def draw_downloads(store: RunStore, plan: Plan, results: Results) -> None:
    """Offer the sweep as files, each made when it is asked for."""
    name = f"sweep-{plan.digest}"
    kinds: tuple[tuple[str, str, str, Callable[[Report], bytes]], ...] = (
        ("Report to read (HTML)", ".html", "text/html", lambda one: report_page(one).encode()),
        ("Cells (CSV)", ".csv", "text/csv", cells_csv),
        ("Results (JSON)", ".json", "application/json", document_text),
        (
            "vLLM's metrics of each run (JSON Lines)",
            ".jsonl",
            "application/jsonl",
            lambda one: b"".join(vllm_lines(store, one)),
        ),
    )
    with st.popover("Report", icon=":material/download:", key="lab_report"):
        for label, suffix, mime, make in kinds:
            st.download_button(
                label,
                partial(_made, store, plan, results, make),
                file_name=f"{name}{suffix}",
                mime=mime,
                key=f"lab_report_{suffix[1:]}",
                on_click="ignore",
                width="stretch",
            )


def _made(store: RunStore, plan: Plan, results: Results, make: Callable[[Report], bytes]) -> bytes:
    return make(make_report(store, plan, results))


# -- single prompts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the table: which end of it, and what it shows."""

    end: str
    gain: PromptGain


def draw_prompts(store: RunStore, plan: Plan, results: Results, condition: Condition) -> None:
    """Draw the prompts that gain most and least by the best arm; one that is chosen plays."""
    drafting = [
        one for one in results.outcomes(condition) if not one.arm.is_plain and not one.is_predicted
    ]
    if not drafting:
        return
    arm = drafting[0].arm
    most, least = extremes(prompt_gains(plan, results, condition, arm))
    lines = [_Line("most", one) for one in most] + [_Line("least", one) for one in least]
    if not lines:
        return
    st.markdown(
        f"**Prompts that {words.plain(_arm_name(arm))} helps most, and least**",
        help="Times plain decoding on the same prompt. Select a line to play its run.",
    )
    chosen = st.dataframe(
        pd.DataFrame([_row(one) for one in lines]),
        hide_index=True,
        key=f"lab_prompts_{condition.kind}_{_arm_name(arm)}",
        on_select="rerun",
        selection_mode="single-row",
        column_config={"× plain": st.column_config.NumberColumn(format="%.2f")},
    )
    rows = chosen["selection"]["rows"]
    run_id = lines[rows[0]].gain.run_id if rows and rows[0] < len(lines) else None
    if run_id is not None:
        _draw_replay(store, run_id)


def _arm_name(arm: Arm) -> str:
    return f"{arm.label} with K = {arm.num_draft_tokens}"


def _row(line: _Line) -> dict[str, object]:
    gain = line.gain
    prompt = visible(" ".join(gain.prompt.split()))
    return {
        "Helped": line.end,
        "× plain": gain.times_plain,
        "Tokens/s": round(gain.tokens_per_s, 1),
        "Class": gain.kind,
        "Prompt": prompt[:_PROMPT_CHARS] + "…" * (len(prompt) > _PROMPT_CHARS),
    }


def _draw_replay(store: RunStore, run_id: int) -> None:
    held = st.session_state.get("lab_played")
    if held is None or held[0] != run_id:
        held = st.session_state.lab_played = (run_id, store.load(run_id))
    run = held[1]
    if not run.rounds:
        st.caption("This run has no rounds to play.")
        return
    player = history_replay.player_for(run, (store.location, run_id))
    history_replay.draw(player, f"run_{run_id}")
