"""One tree from several drafters: each keeps its branch, and all together the law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from specdec.acceptance import Draft, verify
from specdec.drafters.base import Drafter, DrafterRun
from specdec.drafters.branches import BranchesDrafter, first_nodes, join, share_of
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.engine import RoundSettings, generate
from specdec.policies.base import MAX_NODES, Budget
from specdec.records import RoundResult, TokenStatus
from specdec.sampling import Distribution, Sampler, sample
from specdec.targets.local import LocalTarget
from tests.drafters.tables import (
    COMBINATIONS,
    MEMBERS,
    PROMPT,
    SAMPLER,
    TableDrafter,
    on_toys,
    proposals,
)
from tests.test_acceptance import (
    VOCAB,
    assert_target_law,
    conditional,
    distribution,
    sequence_law,
)
from tests.test_engine import GREEDY, Diary, plain_greedy, tokens_of
from tests.test_engine import PROMPT as ENGINE_PROMPT
from tests.toy import ToyModel

GROUPS = [
    ("drawn", "drawn"),
    ("drawn", "chosen"),
    ("chosen", "drawn"),
    ("chosen", "chosen"),
    ("spiky", "spiky"),
    ("halting", "spiky", "chosen"),
    ("spiky", "chosen", "drawn"),
    ("chosen", "chosen", "spiky"),
]


def assert_keeps_the_law(drafter: Drafter, seed: int, budget: Budget) -> list[Draft]:
    """Return all drafts that are possible."""
    target = conditional(seed)
    drafts = list(proposals(lambda: drafter.start(PROMPT), budget))
    assert sum(chance for _, chance in drafts) == pytest.approx(1.0, abs=1e-12)
    assert_target_law(sequence_law(iter(drafts), target, 3), target, 3)
    return [draft for draft, _ in drafts]


@pytest.mark.parametrize("kinds", GROUPS, ids=" ".join)
@pytest.mark.parametrize("seed", range(4))
def test_the_tree_keeps_the_law_of_the_target(seed: int, kinds: tuple[str, ...]) -> None:
    members = [MEMBERS[kind](100 * i + seed) for i, kind in enumerate(kinds, 1)]
    assert_keeps_the_law(BranchesDrafter(members), seed, Budget.chain(2))


@pytest.mark.parametrize("first", [0, 1, 2])
def test_members_who_agree_keep_the_law_with_what_they_have_in_common_merged(first: int) -> None:
    """A common first token that is certain, below it what was drawn, what was chosen, and more."""
    sure = np.eye(VOCAB)[first]
    tables = [
        lambda context: sure if not context else conditional(101)(context),
        lambda context: first if not context else conditional(201)(context),
        lambda context: first if not context else 1,
    ]
    members = [TableDrafter(f"{i}", table) for i, table in enumerate(tables)]
    for draft in assert_keeps_the_law(BranchesDrafter(members), 1, Budget.chain(2)):
        assert draft.parents == (-1, 0, 0, 0)
        assert draft.drafted_by == ("0", "0", "1", "2")


def test_equal_tokens_are_merged_only_where_both_are_certain() -> None:
    certain, other = distribution(np.eye(VOCAB)[1]), distribution(np.full(VOCAB, 1 / 3))
    for one, two, parents in [
        (None, None, (-1, 0, 0)),
        (None, certain, (-1, 0, 0)),
        (certain, None, (-1, 0, 0)),
        (other, other, (-1, 0, -1, 2)),
        (None, other, (-1, 0, -1, 2)),
        (other, None, (-1, 0, -1, 2)),
    ]:
        tree, _ = join([Draft.chain([1, 0], [one, None]), Draft.chain([1, 2], [two, None])], "ab")
        assert tree.parents == parents


def test_equal_chains_stand_in_the_tree_once_and_a_fork_begins_where_they_part() -> None:
    chains = [Draft.chain([1, 2, 0]), Draft.chain([1, 2, 0]), Draft.chain([1, 0, 0])]
    tree, places = join(chains, "abc")
    assert tree.token_ids == (1, 2, 0, 0, 0)
    assert tree.parents == (-1, 0, 1, 0, 3)
    assert tree.drafted_by == ("a", "a", "a", "c", "c")
    assert places == [[0, 1, 2], [0, 1, 2], [0, 3, 4]]


# -- the budget -----------------------------------------------------------------------------------


def test_each_member_may_go_as_deep_as_the_whole_and_all_together_no_wider_than_is_allowed() -> (
    None
):
    assert share_of(Budget.chain(5), 3) == Budget.chain(5)
    assert share_of(Budget(4, 30), 3) == Budget(4, 10)
    assert share_of(Budget(4, 6), 3) == Budget.chain(4)
    assert share_of(Budget.chain(0), 2) == Budget.chain(0)
    unsure = lambda law: law.entropy > 1.0  # noqa: E731
    assert share_of(Budget(4, 9, unsure), 2).stops_at is unsure
    for depth, num_nodes, num_members in itertools.product(range(70), (0, 16, 64), (2, 3, 4)):
        share = share_of(Budget(depth, max(depth, num_nodes)), num_members)
        assert share.depth <= share.num_nodes
        assert share.num_nodes * num_members <= MAX_NODES
        assert share.depth == depth or depth > MAX_NODES // num_members


class WideDrafter(Drafter, DrafterRun):
    """Draws two siblings without replacement at every node, whatever it is allowed."""

    def __init__(self, name: str, model, num_levels: int) -> None:
        self._name, self.model, self.num_levels = name, model, num_levels

    @property
    def name(self) -> str:
        return self._name

    def start(self, prompt):
        return self

    def propose(self, context, budget, sampler, rng, hidden=None):
        token_ids, parents, laws, paths = [], [], [], [()]
        for node, path in enumerate(paths, -1):  # which grow while they are read, level by level
            if len(path) == self.num_levels:
                break
            law = distribution(self.model(path))
            for _ in range(2):
                if law is not None:
                    token_ids.append(_draw(law, rng))
                    parents.append(node)
                    laws.append(law)
                    paths.append((*path, token_ids[-1]))
                    law = law.without(token_ids[-1])
        return Draft(tuple(token_ids), tuple(parents), tuple(laws))


def _draw(law: Distribution, rng) -> int:
    certain = np.count_nonzero(law.probs) == 1
    return int(law.probs.argmax()) if certain else sample(law.probs, rng)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_tree_cut_to_its_first_nodes_keeps_the_law(count: int) -> None:
    class Cut(WideDrafter):
        def propose(self, *arguments):
            draft = first_nodes(super().propose(*arguments), count)
            assert len(draft) == count
            return draft

    assert_keeps_the_law(Cut("cut", conditional(107), 2), 7, Budget.chain(2))


def test_no_more_is_drafted_than_is_allowed_by_members_who_heed_no_budget() -> None:
    members = [WideDrafter(f"{i}", conditional(i), 6) for i in range(3)]
    run = BranchesDrafter(members).start(PROMPT)
    draft = run.propose(PROMPT, Budget.chain(5), SAMPLER, np.random.default_rng(0))
    assert [draft.drafted_by.count(name) for name in "012"] == [5, 5, 5]
    draft = run.propose(PROMPT, Budget(5, MAX_NODES), SAMPLER, np.random.default_rng(0))
    assert [draft.drafted_by.count(name) for name in "012"] == [21, 21, 21]


# -- in the loop ----------------------------------------------------------------------------------


def run(members, sampler=GREEDY, num_draft_tokens=4, **model_options) -> list[RoundResult]:
    settings = RoundSettings(BranchesDrafter(members), num_draft_tokens, sampler)
    target = LocalTarget(ToyModel(0, **model_options))
    events = generate(ENGINE_PROMPT, target, settings, max_tokens=30)
    return [event for event in events if isinstance(event, RoundResult)]


@pytest.mark.parametrize("supports_trees", [True, False])
@pytest.mark.parametrize("names", COMBINATIONS, ids="|".join)
def test_temperature_zero_equals_plain_decoding(names, supports_trees: bool) -> None:
    for num_draft_tokens in (0, 1, 5, 16):
        rounds = run(on_toys(names), GREEDY, num_draft_tokens, supports_trees=supports_trees)
        assert tokens_of(rounds) == plain_greedy(ToyModel(0), 30)
        assert all(r.num_drafted <= MAX_NODES for r in rounds)


def test_every_token_tells_who_drafted_it_up_to_the_records() -> None:
    rounds = run(on_toys(["other", "same"]), Sampler(1.0), 3)
    assert [c.drafted_by for c in rounds[0].candidates] == ["other"] * 3 + ["same"] * 3
    taken = {c.drafted_by for r in rounds for c in r.candidates if c.status is TokenStatus.ACCEPTED}
    assert taken == {"other", "same"}
    assert all(r.final.drafted_by is None for r in rounds)
    assert {r.drafter for r in rounds} == {"other|same"}


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(1.0)])
def test_each_member_is_told_what_became_of_its_own_draft(sampler: Sampler) -> None:
    model = ToyModel(0)
    members = [Diary(member, member.name) for member in on_toys(["noisy", "ngram", "other"])]
    rounds = run(members, sampler)
    num_accepted = 0
    for member in members:
        assert len(member.told) == len(member.asked) == len(rounds)
        for (context, _, _), (draft, rows, verdict), result in zip(
            member.asked, member.told, rounds, strict=True
        ):
            assert draft.is_chain
            assert len(rows) == len(draft) + 1
            assert len(verdict.tests) == len(draft)
            for place, row in enumerate(rows):
                logits = model.logits_after([*context, *draft.token_ids[:place]])
                assert np.array_equal(row.logits, logits)
            assert verdict.path == tuple(range(len(verdict.path)))
            assert draft.token_ids[: len(verdict.path)] == result.emitted[: len(verdict.path)]
            for place, test in enumerate(verdict.tests):
                assert (test.status is TokenStatus.ACCEPTED) == (place in verdict.path)
            num_accepted += len(verdict.path)
    assert num_accepted >= sum(r.num_accepted for r in rounds) > 0


def test_an_ensemble_learns_as_a_branch_too() -> None:
    ensemble = EnsembleDrafter(on_toys(["same", "other"]))
    drafter = BranchesDrafter([TableDrafter("chosen", lambda context: 1), ensemble])
    target, rng = ToyModel(0), np.random.default_rng(0)
    run = drafter.start(PROMPT)
    learner = run._members.runs[1]
    for _ in range(5):
        draft = run.propose(PROMPT, Budget.chain(2), SAMPLER, rng)
        paths = [PROMPT, *([*PROMPT, *draft.tokens_to(node)] for node in range(len(draft)))]
        rows = [Distribution.from_logits(target.logits_after(path), SAMPLER) for path in paths]
        run.observe(draft, rows, verify(draft, [row.probs for row in rows], rng))
    assert learner.weights[0] > 0.7
