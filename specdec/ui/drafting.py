"""How far was drafted, and who drafted it: a policy's moves, and what each member was worth."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from specdec.drafters.lookahead import POOL, WINDOW
from specdec.runs import moves
from specdec.runs.members import MemberWorth, members_worth
from specdec.runs.run import Run
from specdec.ui import dashboard
from specdec.view import policy_charts, words

NUM_TOLD = 8
"""How many of the last moves are told below the chart."""


def has_something(run: Run) -> bool:
    """Say whether this run has anything to tell of that."""
    return moves.is_steered(run.rounds) or bool(members_worth(run.rounds))


def draw(run: Run) -> None:
    """Draw whatever there is."""
    if moves.is_steered(run.rounds):
        _draw_policy(run)
    worth = members_worth(run.rounds)
    if worth:
        _draw_members(worth)


def _draw_policy(run: Run) -> None:
    made = moves.moves(run.rounds)
    dashboard.draw_chart(
        "K over the rounds",
        "Line: K, the most tokens that may stand one after the other in a draft, as the policy "
        "decided it before each round. Bars: the tokens that were drafted, all of a tree's; fewer "
        "than K where the draft stopped by itself or the run was about to end. Diamonds: the "
        "policy moved something; point at one to read why. All as it was in this run.",
        policy_charts.policy_data(run.rounds, made),
        policy_charts.policy_spec(),
        f"K and the tokens drafted in each of {len(run.rounds)} rounds; the moves are told below",
        height_px=240,
    )
    policies = ", ".join(dict.fromkeys(result.policy for result in run.rounds))
    if not made:
        st.caption(words.plain(f"The {policies} policy moved nothing in this run."))
        return
    told = made[-NUM_TOLD:]
    left_out = f", the last {len(told)} of {len(made)}" if len(told) < len(made) else ""
    st.markdown(words.plain(f"Every move and its reason{left_out} ({policies} policy):"))
    st.markdown("\n".join(f"- Round {move.round + 1}: {words.plain(move.why)}" for move in told))


def _draw_members(worth: list[MemberWorth]) -> None:
    st.markdown(
        "**What each member was worth**",
        help="Counted in this run, over the rounds in which several drafted together. A token that "
        "several proposed is counted for the one that is asked first; one drawn from a mixture for "
        "the member that gave it most of its probability.",
    )
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(worth).assign(share_of_output=lambda one: 100 * one.share_of_output),
        hide_index=True,
        column_config={
            "name": "Member",
            "num_drafted": number("Drafted", help="Tokens that it proposed."),
            "num_tested": number(
                "Tested",
                help="Those that the rule came to. The others stood behind a rejected token, or "
                "beside one that had passed.",
            ),
            "num_accepted": number("Accepted", help="Those that passed."),
            "accepted_per_round": number(
                "Accepted per round",
                format="%.2f",
                help="Over the rounds in which it proposed anything.",
            ),
            "share_of_output": number(
                "Share of the output",
                format="%.1f %%",
                help="Of the tokens that came out of these rounds. What is missing to 100 % are "
                "the target's own: resampled and bonus tokens.",
            ),
        },
    )
    rest = 1.0 - sum(one.share_of_output for one in worth)
    best = max(worth, key=lambda one: one.share_of_output)
    names = "The pool of n-grams and the window of guesses are the two members of lookahead. "
    st.caption(
        words.plain(
            names
            * ({one.name for one in worth} <= {POOL, WINDOW})
            + f"{best.name} gave most of what was drafted and kept: "
            f"{words.percent(best.share_of_output)} of the output; the target itself gave "
            f"{words.percent(rest)}."
        )
    )
