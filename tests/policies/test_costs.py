"""What a call of so many rows costs, by the sizes that were tried."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.policies.costs import Costs
from specdec.records import RoundResult, TokenRecord, TokenStatus

NOTHING = TokenRecord(0, -1, 0, TokenStatus.REJECTED)


def costs_of(*calls: tuple[int, float], link_s: float = 0.0) -> Costs:
    """Return the costs of rounds that scored so many rows in so many seconds each."""
    costs = Costs()
    for rows, call_s in calls:
        times = {"verify_s": call_s + link_s, "link_s": link_s, "sample_s": 0.0, "wall_s": 1.0}
        costs.add(
            RoundResult(
                round=0,
                position=0,
                candidates=(NOTHING,) * (rows - 1),
                final=None,
                emitted=(),
                num_draft_tokens=0,
                temperature=1.0,
                drafter="",
                started_s=0.0,
                draft_s=0.0,
                retry_s=0.0,
                **times,
            )
        )
    return costs


STEPS = [(1, 0.030), (4, 0.031), (5, 0.040), (8, 0.042)]


@pytest.mark.parametrize(
    ("rows", "call_s"),
    [(1, 0.030), (2, 0.030333), (4, 0.031), (5, 0.040), (6, 0.040667), (8, 0.042)],
)
def test_between_sizes_that_were_tried_it_goes_straight(rows, call_s):
    assert costs_of(*STEPS).call_s(rows) == pytest.approx(call_s, rel=1e-3)
    assert costs_of(*STEPS, link_s=0.05).call_s(rows) == pytest.approx(call_s + 0.05, rel=1e-3)


def test_beyond_them_it_goes_as_the_line_does():
    costs = costs_of((3, 0.033), (5, 0.035))
    _, row_s = costs.line()
    assert costs.call_s(9) == pytest.approx(0.035 + 4 * row_s)
    assert costs.call_s(1) == pytest.approx(0.033 - 2 * row_s)


def test_one_slow_call_makes_no_size_dear():
    calls = [(2, 0.030)] * 6 + [(2, 0.3), (4, 0.031), (4, 0.031)]
    assert costs_of(*calls).call_s(2) == pytest.approx(0.030)
    pooled = costs_of((2, 0.3), *[(4, 0.031)] * 9)  # tried once, and slower than more rows were
    assert pooled.call_s(4) == pooled.call_s(2) < 0.06


@given(st.lists(st.tuples(st.integers(1, 65), st.floats(1e-4, 10.0)), min_size=1, max_size=30))
def test_more_rows_never_cost_less_and_none_is_free(calls):
    costs = costs_of(*calls)
    curve = [costs.call_s(rows) for rows in range(1, 70)]
    assert curve[0] > 0.0
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(curve))
