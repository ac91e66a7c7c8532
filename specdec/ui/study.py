"""A finished run looked at closely: a round step by step, whether it is worth it, race, audit."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from specdec.records import RoundResult, TokenStatus
from specdec.ui import audit, controls, inspector, panels, study_charts, words, worth
from specdec.ui.facts import TextOf, visible
from specdec.ui.pump import LiveRun
from specdec.ui.race import Race, result_words
from specdec.ui.recording import Recording
from specdec.ui.run_view import mean_acceptance

TABS = (ROUNDS, WORTH, RACE, LOSSLESSNESS) = (
    "Round by round",
    "Is it worth it here?",
    "Race",
    "Losslessness",
)
_RACE_EVERY_S = 0.3
_RACE_HEIGHT_PX = 220


def draw(live: LiveRun) -> None:
    """Draw the four studies of a run that is over."""
    if live.run is None or live.pair is None or not live.run.rounds:
        return
    text_of = live.pair.tokenizer.token_text
    with st.container(key="study"):
        rounds, worth_it, race, losslessness = st.tabs(TABS, default=_wanted_tab(live))
    with rounds:
        _draw_inspector(live.run.rounds, text_of)
    with worth_it:
        _draw_worth(live)
    with race:
        _draw_race(live)
    with losslessness:
        _draw_audit(live)


def _wanted_tab(live: LiveRun) -> str:
    """Return the tab to open: the one that asked for plain decoding, once it is there."""
    wanted: str = st.session_state.get("wanted_tab", RACE if live.race else ROUNDS)
    return wanted


# Round by round


def choose(node_id: str | None) -> None:
    """Let a click on the tree choose the round that is told, and the token in it."""
    if node_id is None or node_id == st.session_state.get("clicked"):
        return
    st.session_state.clicked = node_id
    round_part = node_id.removeprefix("r").replace("f", "c").split("c")[0]
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
        help="Or click a token of the tree above.",
    )
    result = rounds[int(number) - 1]
    told, shown = st.columns([3, 2])
    with told:
        for index, step in enumerate(inspector.steps(result, text_of), 1):
            st.markdown(f"{index}. {words.plain(step)}")
    with shown:
        _draw_sides(result, text_of)
    _draw_candidates(result, text_of)


def _draw_sides(result: RoundResult, text_of: TextOf) -> None:
    records = {record.position: record for record in inspector.places(result)}
    rejected = [p for p, r in records.items() if r.status is TokenStatus.REJECTED]
    position = st.pills(
        "Position",
        list(records),
        default=(rejected or list(records))[-1],
        required=True,
        format_func=lambda p: f"{p + 1}: {visible(text_of(records[p].token_id))}",
        key=f"position_{result.round}",
        help="Whose candidates are compared: the output positions that this round was about.",
    )
    of = (
        "the models' own probabilities (at temperature 0 those tested are 0 or 1)"
        if result.temperature == 0
        else "after temperature and top-p, as they are tested"
    )
    panels.draw_chart(
        "Draft against target",
        f"The likeliest tokens of both sides at this position: {of}. Residual: max(0, p − q), made "
        "to sum to 1 over the whole vocabulary, from which the resampled token was drawn.",
        study_charts.sides_data(inspector.bars(result, position, text_of)),
        study_charts.sides_spec(),
        "Probabilities of the likeliest tokens, by draft and by target",
        height_px=320,
    )


def _draw_candidates(result: RoundResult, text_of: TextOf) -> None:
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(inspector.candidate_rows(result, text_of)),
        hide_index=True,
        placeholder="–",
        column_config={
            "place": number("#", help="Place in the round."),
            "token": "Token",
            "draft_prob": number("q", format="%.4f", help="Probability it was drafted with."),
            "target_prob": number("p", format="%.4f", help="The target's probability of it."),
            "ratio": number("p / q", format="%.3f"),
            "acceptance_prob": number("min(1, p/q)", format="%.3f", help="Chance to pass."),
            "uniform": number("u", format="%.3f", help="Drawn from [0, 1); below it passes."),
            "verdict": "Verdict",
        },
    )


# Is it worth it here?


def _draw_worth(live: LiveRun) -> None:
    assert live.run is not None
    rounds = live.run.rounds
    prediction = None
    if live.baseline is not None:
        alpha = mean_acceptance(rounds)
        prediction = worth.forecast(rounds, live.run.summary, alpha, live.baseline)
    if prediction is None:
        st.caption("Nothing was drafted in this run, so there is no acceptance to predict from.")
        return
    link = words.link_kind(live)
    st.markdown(words.plain(worth.reason(prediction)))
    panels.draw_chart(
        "Tokens per second by K",
        "Predicted: (1 + Σ s_i) tokens per round over K · draft + target call + link, with this "
        "run's acceptance by position and its measured costs; a call's cost is a straight line "
        "through plain decoding and this run. Measured: this run, and its baseline at K = 0."
        + (f" The link is {link}." if link else ""),
        study_charts.forecast_data(prediction),
        study_charts.forecast_spec(),
        "Predicted tokens per second for K from 0 to 16, with the measured points",
        height_px=260,
    )
    costs = prediction.costs
    cells = st.columns(4)
    for cell, (name, value_s, meaning) in zip(
        cells,
        (
            ("Draft a token", costs.draft_s, "Measured in this run: drafting over tokens drafted."),
            ("Target call", costs.call_s, "Measured by the baseline: one token, without the link."),
            ("Each token more", costs.extra_s, "Measured: what a longer draft adds to a call."),
            ("Link", costs.link_s, f"{link.capitalize() or 'None'}: the network in each call."),
        ),
        strict=True,
    ):
        cell.metric(name, f"{1e3 * value_s:.1f} ms", help=meaning)


# Race and audit, which both want plain decoding of the same target


def _offer_plain(live: LiveRun, tab: str, why: str) -> None:
    st.caption(why)
    if st.button("Run plain decoding now", key=f"plain_for_{tab}", icon=":material/timer:"):
        st.session_state.wanted_tab = tab
        live.decode_plainly()
        st.rerun()


def _plain_rounds(plain: Recording) -> list[RoundResult]:
    return [f.event for f in plain.frames if isinstance(f.event, RoundResult)]


def _draw_race(live: LiveRun) -> None:
    if live.plain is None or live.recording is None or live.pair is None:
        _offer_plain(
            live,
            RACE,
            "The target writes its answer once more without a draft, by itself on this machine "
            "and over the same link; then both are played back on one clock.",
        )
        return
    text_of = live.pair.tokenizer.token_text
    runners = (live.recording.frames, live.plain.frames)
    if st.session_state.get("race_of") is not live.plain:
        st.session_state.race_of = live.plain
        st.session_state.race_shown = Race(text_of, runners, None)
        st.session_state.race_shown.advance(time.monotonic())
    if st.button("Play the race", key="play_race", icon=":material/flag:"):
        speed = controls.chosen_speed() or 1.0
        st.session_state.race_shown = Race(text_of, runners, speed)
    race: Race = st.session_state.race_shown
    every_s = None if race.is_over else _RACE_EVERY_S
    st.fragment(_draw_lanes, run_every=every_s)(live, race)


def _draw_lanes(live: LiveRun, race: Race) -> None:
    was_over = race.is_over
    race.advance(time.monotonic())
    if race.is_over and not was_over:
        st.rerun(scope="app")
    totals = [sum(len(r.emitted) for r in rounds) for rounds in _rounds_of_both(live)]
    names = ("Speculative decoding", "Plain decoding")
    for index, column in enumerate(st.columns(2)):
        lap, view = race.laps()[index], race.views[index]
        with column:
            st.markdown(f"**{names[index]}**")
            speed = "" if lap.tokens_per_s is None else f", {lap.tokens_per_s:.1f} tokens/s"
            st.progress(
                min(1.0, lap.num_tokens / max(1, totals[index])),
                text=f"{lap.num_tokens} tokens in {lap.seconds:.1f} s{speed}",
            )
            panels.draw_race_text(view, f"race_{index}", _RACE_HEIGHT_PX)
    if race.is_over:
        speculative, plain = race.laps()
        st.markdown(words.plain(result_words(speculative, plain, words.link_kind(live))))
    if live.config.temperature > 0:
        st.caption("Above temperature 0 the texts differ by chance; both follow the target.")


def _rounds_of_both(live: LiveRun) -> tuple[list[RoundResult], list[RoundResult]]:
    assert live.recording is not None
    assert live.plain is not None
    return _plain_rounds(live.recording), _plain_rounds(live.plain)


def _draw_audit(live: LiveRun) -> None:
    assert live.run is not None
    rounds = live.run.rounds
    st.markdown(
        f"**Guarantee of this target:** {words.plain(live.run.exactness)}.",
        help="What the output law is, if every piece works as it should; the checks below look.",
    )
    if all(result.temperature == 0 for result in rounds):
        _draw_comparison(live)
    else:
        _draw_acceptance_check(rounds)


def _draw_comparison(live: LiveRun) -> None:
    assert live.run is not None
    if live.plain is None:
        _offer_plain(
            live,
            LOSSLESSNESS,
            "At temperature 0 the text must be that of plain decoding, token by token.",
        )
        return
    found = audit.compare(live.run.rounds, _plain_rounds(live.plain))
    if found.divergence is None:
        st.success(
            f"Identical to plain decoding: all {found.num_compared} tokens compared.",
            icon=":material/check_circle:",
        )
        return
    margin = "" if found.margin is None else f", by a margin of {found.margin:.2g} nats"
    st.error(
        f"The first difference to plain decoding is at token {found.divergence + 1} of "
        f"{found.num_compared}, where the target preferred another token{margin}. A tiny margin "
        "means that its numbers change with how many tokens are verified at once.",
        icon=":material/error:",
    )


def _draw_acceptance_check(rounds: tuple[RoundResult, ...]) -> None:
    check = audit.check_acceptance(rounds)
    if check is None:
        st.caption("Nothing was drafted in this run, so there were no tests to check.")
        return
    found = (
        f"{check.num_tests} tests: {100 * check.observed:.1f} % of the drafted tokens passed; "
        f"expected {100 * check.expected:.1f} %, with a 95 % band from {100 * check.low:.1f} to "
        f"{100 * check.high:.1f} %."
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
