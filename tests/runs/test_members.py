"""What each member was worth, against counts made by hand and against whole runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.drafters.branches import BranchesDrafter
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.lookahead import POOL, WINDOW, LookaheadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.engine import RoundSettings, generate
from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.runs.members import MemberWorth, members_worth
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.made_runs import tiny_run
from tests.toy import ToyModel

A, R, D = TokenStatus.ACCEPTED, TokenStatus.REJECTED, TokenStatus.DISCARDED


@pytest.fixture
def plain(tmp_path):
    return tiny_run(tmp_path).rounds


def made(like, nodes, *, has_final=True, emitted=None):
    """Return a round of `nodes`: (who, parent, status)."""
    depths: list[int] = []
    for _, parent, _ in nodes:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    candidates = tuple(
        TokenRecord(i, parent, depth, status, drafted_by=who)
        for i, ((who, parent, status), depth) in enumerate(zip(nodes, depths, strict=True))
    )
    final = TokenRecord(99, -1, 0, TokenStatus.BONUS) if has_final else None
    whole = [c.token_id for c in candidates if c.status is A] + [99] * has_final
    return replace(
        like, candidates=candidates, final=final, emitted=tuple(whole[:emitted]), position=0
    )


def test_counts_by_hand(plain):
    rounds = [
        made(plain[0], [("a", -1, R), ("a", 0, D), ("b", -1, A), ("b", 2, A)]),
        made(plain[0], [("a", -1, A), ("a", 0, R)]),
        made(plain[0], [(None, -1, A)]),  # another drafter, which has no members
    ]
    assert members_worth(rounds) == [
        MemberWorth("a", 4, 3, 1, 1 / 2, 1 / 5),
        MemberWorth("b", 2, 2, 2, 2.0, 2 / 5),
    ]


def test_what_an_end_token_cut_off_is_accepted_but_no_output(plain):
    one = made(plain[0], [("a", -1, A), ("b", 0, A)], emitted=1)
    assert [w.num_accepted for w in members_worth([one])] == [1, 1]
    assert [w.share_of_output for w in members_worth([one])] == [1.0, 0.0]


def test_a_round_that_gave_nothing_divides_by_nothing(plain):
    one = made(plain[0], [("a", -1, R)], has_final=False)
    assert members_worth([one]) == [MemberWorth("a", 1, 1, 0, 0.0, 0.0)]


def test_one_drafter_has_no_members(plain):
    assert members_worth(plain) == []
    assert members_worth([]) == []


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda model: BranchesDrafter([ModelDrafter(model), NgramDrafter()]), None),
        (lambda model: EnsembleDrafter([ModelDrafter(model), NgramDrafter()]), None),
        (lambda model: LookaheadDrafter(), {POOL, WINDOW}),
    ],
    ids=["branches", "mixture", "lookahead"],
)
def test_of_any_group_the_shares_make_up_the_output(make, names):
    model = ToyModel(seed=1)
    drafter = make(ToyModel(seed=2))
    settings = RoundSettings(drafter, 4, Sampler(0.8))
    events = generate([1, 2, 3, 1, 2], LocalTarget(model), settings, max_tokens=60, seed=2)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    worth = members_worth(rounds)
    assert {one.name for one in worth} <= (names or {m.name for m in drafter.members})
    assert sum(one.num_drafted for one in worth) == sum(r.num_drafted for r in rounds)
    assert sum(one.num_accepted for one in worth) == sum(r.num_accepted for r in rounds)
    own = sum(one.drafted_by is not None for r in rounds for one in r.tokens)
    group_emitted = sum(len(r.emitted) for r in rounds if r.candidates)
    assert sum(one.share_of_output for one in worth) == pytest.approx(own / group_emitted)
    assert all(one.num_accepted <= one.num_tested <= one.num_drafted for one in worth)
