"""A finished run looked at closely: a round step by step, whether it is worth it, race, audit.

A saved run is studied like one that has just ended; only what takes its target, plain decoding to
race against and to compare with, is there for the latter alone.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from specdec.drafters.none import NoDrafter
from specdec.live.pump import LiveRun
from specdec.records import RoundResult, TokenStatus
from specdec.runs import audit, worth
from specdec.runs.run import Run
from specdec.ui import attention, dashboard, drafting, panels, plain_decoding, what_if
from specdec.view import inspector, study_charts, words
from specdec.view.facts import TextOf
from specdec.view.tree import slices, wrapped_picture

TABS = (ROUNDS, DRAFTING, ATTENTION, WORTH, RACE, LOSSLESSNESS) = (
    "The whole tree, round by round",
    "How far, and by whom",
    "Attention",
    "Is it worth it here?",
    "Race",
    "Losslessness",
)


def _draw_tree(run: Run, identity: str) -> None:
    """Draw the whole tree, in stretches if it is long; a click on a token chooses its round."""
    stretches = slices(run.rounds)
    if not stretches:
        return
    stretch = stretches[0]
    if len(stretches) > 1:
        stretch = st.select_slider(
            "Rounds in the tree",
            stretches,
            format_func=lambda part: f"{part.start + 1} – {part.stop}",
            key="stretch",
        )
    picture = wrapped_picture(run.rounds, run.token_text, stretch)
    _choose(panels.draw_final_tree(picture, f"final_graph_{identity}_{stretch.start}"))


def draw(run: Run, identity: str, *, link: str, live: LiveRun | None = None) -> None:
    """Draw the studies of a run that is over.

    Args:
        run: with its rounds, or nothing is drawn.
        identity: of the run; what was chosen in another one is forgotten.
        link: "emulated", "measured", or nothing where there is none.
        live: with its target still at hand; None for a saved run.
    """
    if not run.rounds:
        return
    _turn_to(identity)
    shown = {RACE: live is not None, DRAFTING: drafting.has_something(run)}
    names = [name for name in TABS if shown.get(name, True)]
    with st.container(key="study"):
        _open_tab(_wanted_tab(live))
        drawn = st.tabs(names, key="study_tab", on_change="rerun")
        tabs = dict(zip(names, drawn, strict=True))
    with tabs[ROUNDS]:
        tree, inspected = st.columns([3, 2], gap="medium")
        with tree:
            if tabs[ROUNDS].open:  # a canvas that nobody sees has no size to fit the tree to
                _draw_tree(run, identity)
        with inspected:
            _draw_inspector(run.rounds, run.token_text)
        _draw_candidates(run.rounds[int(st.session_state.round) - 1], run.token_text)
    if DRAFTING in tabs:
        with tabs[DRAFTING]:
            drafting.draw(run)
    with tabs[ATTENTION]:
        attention.draw(run, identity)
    with tabs[WORTH]:
        _draw_worth(run, identity, link, live)
    if live is not None:
        with tabs[RACE]:
            plain_decoding.draw_race(live, RACE)
    with tabs[LOSSLESSNESS]:
        _draw_audit(run, live)


def _turn_to(identity: str) -> None:
    if st.session_state.get("studied") != identity:
        st.session_state.studied = identity
        for choice in (
            "round",
            "clicked",
            "stretch",
            "attention_round",
            "attention",
            "opened_tab",
        ):
            st.session_state.pop(choice, None)


def _open_tab(wanted: str) -> None:
    """Open a tab that is newly wanted; otherwise the visitor's choice stands."""
    if st.session_state.get("opened_tab") != wanted:
        st.session_state.opened_tab = st.session_state.study_tab = wanted


def _wanted_tab(live: LiveRun | None) -> str:
    """Return the tab to open: the one that asked for plain decoding, once it is there."""
    if live is None:
        return ROUNDS
    wanted: str = st.session_state.get("wanted_tab", RACE if live.race else ROUNDS)
    return wanted


# Round by round


def _choose(node_id: str | None) -> None:
    """Let a click on the tree choose the round that is told."""
    if node_id == st.session_state.get("clicked"):
        return
    st.session_state.clicked = node_id
    round_part = (node_id or "").removeprefix("r").replace("f", "c").split("c")[0]
    if round_part.isdigit():
        st.session_state.round = int(round_part) + 1


def _instructive(rounds: tuple[RoundResult, ...]) -> int:
    """Return the number, from 1, of a round in which something passed and something failed."""
    for result in rounds:
        rejected = any(c.status is TokenStatus.REJECTED for c in result.candidates)
        if rejected and result.num_accepted:
            return result.round + 1
    return 1


def _draw_inspector(rounds: tuple[RoundResult, ...], text_of: TextOf) -> None:
    st.session_state.setdefault("round", _instructive(rounds))
    number = st.number_input(
        "Round",
        1,
        len(rounds),
        key="round",
        width=160,
        help="Or click a token of the tree beside.",
    )
    result = rounds[int(number) - 1]
    for index, step in enumerate(inspector.steps(result, text_of), 1):
        st.markdown(f"{index}. {words.plain(step)}")
    _draw_sides(result, text_of)


def _draw_sides(result: RoundResult, text_of: TextOf) -> None:
    all_spots = inspector.spots(result)
    chosen = st.selectbox(
        "Place",
        range(len(all_spots)),
        inspector.default_spot(result),
        format_func=lambda index: inspector.spot_label(result, all_spots[index], text_of),
        key=f"spot_{result.round}",
        help="Where a token was to come next: its position in the output, and what competed for "
        "it. In a tree, a place is given by the token that it comes after.",
    )
    of = _which_probs(result)
    dashboard.draw_chart(
        "Draft against target",
        f"The likeliest tokens of both sides at this position: {of}. Residual: max(0, p − q), made "
        "to sum to 1 over the whole vocabulary, from which the resampled token was drawn.",
        study_charts.sides_data(inspector.bars(result, all_spots[chosen], text_of)),
        study_charts.sides_spec(),
        "Probabilities of the likeliest tokens, by draft and by target",
        height_px=320,
    )


def _which_probs(result: RoundResult) -> str:
    """Say which probabilities a round is told with; see `inspector.told_probs`."""
    if result.temperature == 0:
        return "the models' own (at temperature 0 those tested are 0 or 1)"
    return "after temperature and top-p, as they are tested"


def _draw_candidates(result: RoundResult, text_of: TextOf) -> None:
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(inspector.candidate_rows(result, text_of)),
        hide_index=True,
        placeholder="–",
        column_config={
            "place": number("#", help="Place in the round."),
            "after": "After" if result.num_drafted > result.depth else None,
            "token": "Token",
            "draft_prob": number(
                "q", format="%.4f", help=f"The draft's probability of it: {_which_probs(result)}."
            ),
            "target_prob": number(
                "p", format="%.4f", help=f"The target's probability of it: {_which_probs(result)}."
            ),
            "ratio": number("p / q", format="%.3f"),
            "acceptance_prob": number(
                "chance",
                format="%.3f",
                help="Chance to pass: min(1, p/q), of a later sibling with what its elders left of "
                "p; under block verification the chance to be kept, the chain taken as a whole.",
            ),
            "uniform": number("u", format="%.3f", help="Drawn from [0, 1); below it passes."),
            "verdict": "Verdict",
        },
    )


# Is it worth it here?


def _apply(num_draft_tokens: int) -> None:
    """Set the sidebar to a K; the next round or run takes it."""
    if num_draft_tokens:
        st.session_state.k = num_draft_tokens
    else:
        st.session_state.draft = NoDrafter.name


def _offer_best(best: int, run: Run) -> None:
    """Put the predicted best K one press away, where it is not what this run had."""
    if run.config is not None and best == run.config.num_draft_tokens:
        return
    label = f"Apply K = {best}" if best else "Apply: draft nothing"
    pressed = st.button(
        label,
        key="apply_best",
        icon=":material/tune:",
        on_click=_apply,
        args=(best,),
        help="Sets the sidebar; press Generate to see whether the prediction holds.",
    )
    if pressed:
        st.rerun()  # all of the page: the sidebar is no part of the stage


def _draw_worth(run: Run, identity: str, link: str, live: LiveRun | None) -> None:
    prediction = None
    if run.baseline is not None:
        prediction = worth.forecast(run.rounds, run.summary, run.baseline)
    if prediction is not None:
        st.markdown(words.plain(worth.reason(prediction)))
        if live is not None:
            _offer_best(prediction.best, run)
        _draw_forecast(prediction, link)
    elif run.baseline is None:
        st.caption("No baseline was measured for this run, so there is nothing to compare with.")
    else:
        st.caption("Nothing was drafted in this run, so there is nothing to predict from.")
    what_if.draw(run, identity)


def _draw_forecast(prediction: worth.Forecast, link: str) -> None:
    """Draw the speed by K, and the costs that it comes from."""
    dashboard.draw_chart(
        "Tokens per second by K",
        "Predicted: (1 + Σ s_i) tokens per round over K · draft + target call + link, with this "
        "run's acceptance by position and its measured costs. What a longer draft adds to a call "
        "was timed after the run, width by width (where it was not, it is a straight line "
        "through plain decoding and the run). Measured: this run, and its baseline at K = 0."
        + (f" The link is {link}." if link else ""),
        study_charts.forecast_data(prediction),
        study_charts.forecast_spec(),
        "Predicted tokens per second for K from 0 to 16, with the measured points",
        height_px=260,
    )
    costs = prediction.costs
    deepest = max(1, *(k for k, _ in prediction.measured))
    longest = round(prediction.num_nodes[deepest])
    cells = st.columns(4)
    for cell, (name, value_s, meaning) in zip(
        cells,
        (
            ("Draft a token", costs.draft_s, "Measured in this run: drafting over tokens drafted."),
            ("Target call", costs.call_s, "Measured by the baseline: one token, without the link."),
            (
                "One token more" if longest == 1 else f"{longest} tokens more",
                costs.added_s(longest),
                "Measured: what scoring so many drafted tokens as well adds to a call.",
            ),
            ("Link", costs.link_s, f"{link.capitalize() or 'None'}: the network in each call."),
        ),
        strict=True,
    ):
        cell.metric(name, f"{1e3 * value_s:.1f} ms", help=meaning)


# Losslessness


def _draw_audit(run: Run, live: LiveRun | None) -> None:
    st.markdown(
        f"**Guarantee of this target:** {words.plain(run.exactness)}.",
        help="What the output law is, if every piece works as it should; the checks below look.",
    )
    st.caption(
        "The rule itself is proven by enumeration; on real weights `python -m benchmarks.law` "
        "compares what is written with the exact law, for every way of drafting."
    )
    if any(result.temperature > 0 for result in run.rounds):
        _draw_acceptance_check(run.rounds)
    elif live is None:
        st.caption(
            "At temperature 0 the text must be that of plain decoding, token by token. To compare "
            "the two takes the target itself: the live page does it, when a run has just ended."
        )
    elif live.performance.plain is None:
        plain_decoding.offer(
            live,
            LOSSLESSNESS,
            "At temperature 0 the text must be that of plain decoding, token by token.",
        )
    else:
        _draw_comparison(run.rounds, live.performance.plain.rounds)


def _draw_comparison(rounds: tuple[RoundResult, ...], plain: tuple[RoundResult, ...]) -> None:
    found = audit.compare(rounds, plain)
    if found.divergence is None:
        st.success(words.plain(str(found)), icon=":material/check_circle:")
    else:
        st.error(words.plain(str(found)), icon=":material/error:")


def _draw_acceptance_check(rounds: tuple[RoundResult, ...]) -> None:
    check = audit.check_acceptance(rounds)
    if check is None:
        st.caption("Nothing was drafted in this run, so there were no tests to check.")
        return
    found = (
        f"{check.num_tests} tests: {words.percent(check.observed)} of the drafted tokens passed; "
        f"expected {words.percent(check.expected)}, with a 95 % band from "
        f"{words.percent(check.low)} to {words.percent(check.high)}."
    )
    if check.is_inside:
        st.success(f"Inside the band. {words.plain(found)}", icon=":material/check_circle:")
    else:
        st.warning(
            f"Outside the band. {words.plain(found)} One run in twenty is, by chance alone; "
            "run again with another seed.",
            icon=":material/help:",
        )
    st.caption(
        "Each test passes with probability Σ min(p, q), which the two distributions fix. If fewer "
        "or more passed than chance allows, the output would not follow the target.",
    )
