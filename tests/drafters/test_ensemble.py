"""One draft from several drafters: a mixture that keeps the law, and weights that learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from specdec.acceptance import Draft, verify
from specdec.drafters.ensemble import EnsembleDrafter, backer, mix
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.engine import RoundSettings, generate
from specdec.policies.base import Budget
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
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
from tests.test_engine import GREEDY, plain_greedy, tokens_of
from tests.test_engine import PROMPT as ENGINE_PROMPT
from tests.toy import ToyModel

GROUPS = [
    ("drawn", "drawn"),
    ("drawn", "chosen"),
    ("chosen", "chosen"),
    ("halting", "chosen"),
    ("halting", "halting", "spiky"),
    ("chosen", "drawn", "chosen", "halting"),
]


def group(kinds: tuple[str, ...], seed: int) -> EnsembleDrafter:
    return EnsembleDrafter([MEMBERS[kind](100 * i + seed) for i, kind in enumerate(kinds, 1)])


def taught(drafter: EnsembleDrafter, target, num_rounds: int = 3):
    """Return a run that has learnt from some rounds after the prompt."""
    run, rng = drafter.start(PROMPT), np.random.default_rng(1)
    for _ in range(num_rounds):
        learn(run, run.propose(PROMPT, Budget.chain(2), SAMPLER, rng), target, rng)
    return run


def learn(run, draft: Draft, target, rng) -> None:
    rows = [target(draft.token_ids[:place]) for place in range(len(draft) + 1)]
    run.observe(draft, list(map(distribution, rows)), verify(draft, rows, rng))


@pytest.mark.parametrize("kinds", GROUPS, ids=" ".join)
@pytest.mark.parametrize("seed", range(3))
def test_the_mixture_keeps_the_law_of_the_target(seed: int, kinds: tuple[str, ...]) -> None:
    target, drafter = conditional(seed), group(kinds, seed)
    drafts = list(proposals(lambda: taught(drafter, target), Budget.chain(3)))
    assert sum(chance for _, chance in drafts) == pytest.approx(1.0, abs=1e-12)
    assert_target_law(sequence_law(iter(drafts), target, 4), target, 4)


def test_each_token_is_drawn_from_the_mixture_by_the_weights_learnt_before() -> None:
    target, tables = conditional(5), [conditional(105), conditional(205), conditional(305)]
    members = [TableDrafter(f"{i}", table) for i, table in enumerate(tables)]
    run = taught(EnsembleDrafter(members), target, 4)
    weights = run.weights
    assert len(set(weights.round(3))) == 3
    draft = run.propose(PROMPT, Budget.chain(4), SAMPLER, np.random.default_rng(0))
    assert len(draft) == 4
    for node in range(4):
        laws = np.array([table(draft.token_ids[:node]) for table in tables])
        assert draft.distributions[node].probs == pytest.approx(weights @ laws, abs=1e-15)


def test_who_has_no_opinion_is_left_out_and_the_others_weigh_as_they_did_to_each_other() -> None:
    one, two = distribution(np.array([0.5, 0.5, 0.0])), distribution(np.array([0.0, 0.2, 0.8]))
    weights = np.array([0.1, 0.5, 0.3, 0.1])
    law = mix([one, None, two, 1], weights, greedy=False)
    assert law.probs == pytest.approx(np.array([0.05, 0.05 + 0.06 + 0.1, 0.24]) / 0.5)
    assert mix([None, None, two, None], weights, greedy=False) is two


def test_of_point_masses_alone_the_one_with_most_weight_is_chosen() -> None:
    weights = np.array([0.3, 0.4, 0.2, 0.1])
    assert mix([7, 5, 7, None], weights, greedy=False) == 7
    assert mix([None] * 4, weights, greedy=False) is None
    assert mix([7, 5, None, 7], np.array([0.2, 0.5, 0.2, 0.1]), greedy=True) == 5


def test_a_token_is_put_down_to_who_gave_it_most_of_its_probability() -> None:
    one, two = distribution(np.array([0.5, 0.5, 0.0])), distribution(np.array([0.0, 0.2, 0.8]))
    said, weights = [one, None, two, 1], np.array([0.1, 0.5, 0.3, 0.11])
    assert [backer(said, weights, token_id) for token_id in range(VOCAB)] == [0, 3, 2]
    assert backer([1, 1, None, None], np.full(4, 0.25), 1) == 0  # of equals the first


def test_every_token_of_a_mixture_names_its_member() -> None:
    members = [TableDrafter("one", lambda context: 1), TableDrafter("two", lambda context: 2)]
    run, rng = EnsembleDrafter(members).start(PROMPT), np.random.default_rng(0)
    draft = run.propose(PROMPT, Budget.chain(1), SAMPLER, rng)
    assert draft.drafted_by == ("one",)
    row = np.array([0.0, 0.0, 1.0])
    for _ in range(3):
        verdict = verify(draft, [row, None], rng)
        run.observe(draft, [distribution(row), None], verdict)
        draft = run.propose(PROMPT, Budget.chain(1), SAMPLER, rng)
    assert (draft.token_ids, draft.drafted_by) == ((2,), ("two",))


def test_the_draft_ends_before_a_token_that_the_policy_would_not_draw() -> None:
    """It is the mixture that is looked at; a member alone would have gone on, or never begun."""
    sure, even = np.array([1.0, 0.0, 0.0]), np.full(VOCAB, 1 / 3)
    one = TableDrafter("one", lambda context: even if len(context) == 1 else sure)
    two = TableDrafter("two", lambda context: even if len(context) > 1 else sure)
    asked = []

    def stop(law: Distribution) -> bool:
        asked.append(law)
        return len(asked) == 3

    run = EnsembleDrafter([one, two]).start(PROMPT)
    draft = run.propose(PROMPT, Budget(5, 5, stop), SAMPLER, np.random.default_rng(0))
    assert len(draft) == 2
    assert asked[:2] == list(draft.distributions)
    assert asked[2].probs == pytest.approx(np.array([4, 1, 1]) / 6)


def test_a_mixture_shows_the_mixture_of_the_models_own_distributions() -> None:
    cold, logits = Sampler(0.5, top_k=2), [np.array([2.0, 1.0, 0.0]), np.array([0.0, 0.0, 3.0])]
    law = mix([Distribution.from_logits(x, cold) for x in logits], np.full(2, 0.5), greedy=False)
    own = [np.exp(x) / np.exp(x).sum() for x in logits]
    for token in range(VOCAB):
        assert np.exp(law.logprob(token)) == pytest.approx((own[0][token] + own[1][token]) / 2)
    assert law.entropy == pytest.approx(-np.sum(np.mean(own, 0) * np.log(np.mean(own, 0))))


def test_a_chosen_chain_is_followed_as_long_as_the_draft_reads_like_it() -> None:
    """And not asked again: a drafter that learns its context by heart must see output only."""
    asked = []

    class Chooses(TableDrafter):
        def propose(self, context, budget, sampler, rng, hidden=None):
            asked.append(list(context))
            return Draft.chain([1, 2, 0][: budget.depth])

    sure, unsure = np.array([0.0, 1.0, 0.0]), np.array([0.5, 0.0, 0.5])
    drawing = TableDrafter("drawing", lambda context: unsure if len(context) == 1 else sure)
    seen = set()
    for seed in range(20):
        run = EnsembleDrafter([Chooses("chooses", None), drawing]).start(PROMPT)
        draft = run.propose(PROMPT, Budget.chain(3), SAMPLER, np.random.default_rng(seed))
        followed = draft.token_ids[1] == 2
        seen.add(followed)
        assert draft.token_ids[0] == 1
        assert draft.distributions[1].probs.tolist() == [0.25, 0.0, 0.75]
        assert draft.distributions[2].probs.tolist() == ([0.5, 0.5, 0.0] if followed else [0, 1, 0])
    assert seen == {True, False}
    assert {tuple(context) for context in asked} == {tuple(PROMPT)}


def test_what_a_member_draws_for_itself_changes_nothing() -> None:
    """The run's random numbers go to the tokens of the draft, one each."""
    draws = []

    class Counting(np.random.Generator):
        def random(self, *args, **options):
            draws.append(1)
            return super().random(*args, **options)

    run = group(("drawn", "drawn", "chosen"), 0).start(PROMPT)
    run.propose(PROMPT, Budget.chain(3), SAMPLER, Counting(np.random.PCG64(0)))
    assert len(draws) == 3


# -- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("better", [0, 1])
def test_the_weights_move_to_the_better_member(better: int) -> None:
    target = conditional(4)
    members = [TableDrafter("like", target), TableDrafter("unlike", conditional(104))]
    run = EnsembleDrafter(members[:: 1 - 2 * better]).start(PROMPT)
    rng, seen = np.random.default_rng(0), [float(run.weights[better])]
    for _ in range(10):
        learn(run, run.propose(PROMPT, Budget.chain(2), SAMPLER, rng), target, rng)
        seen.append(float(run.weights[better]))
    assert seen[0] == 0.5
    assert all(after > before for before, after in itertools.pairwise(seen))
    assert seen[-1] > 0.7


def test_a_member_is_judged_by_its_overlap_with_the_target_where_it_had_an_opinion() -> None:
    """After one position, weights are to each other as exp(SHARPNESS · RATE · Σ min(p, q))."""
    row, law = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.2, 0.6])
    members = [
        TableDrafter("drawing", lambda context: law),
        TableDrafter("choosing", lambda context: 0),
        TableDrafter("silent", lambda context: None),
    ]
    run = EnsembleDrafter(members).start(PROMPT)
    draft = run.propose(PROMPT, Budget.chain(1), SAMPLER, np.random.default_rng(0))
    verdict = verify(draft, [row, None], np.random.default_rng(0))
    run.observe(draft, [distribution(row), None], verdict)
    drawing, choosing, silent = np.log(run.weights)
    assert drawing - choosing == pytest.approx(10 * 0.1 * (0.5 - 0.7))
    assert silent - choosing == pytest.approx(10 * 0.1 * (0.5 - 0.7))  # it is where it began


def test_rows_the_target_did_not_give_teach_nothing() -> None:
    run = group(("drawn", "drawn"), 0).start(PROMPT)
    rng = np.random.default_rng(0)
    draft = run.propose(PROMPT, Budget.chain(2), SAMPLER, rng)
    rows = [conditional(0)(()), None, None]
    verdict = verify(draft, rows, rng)
    run.observe(draft, [None, None, None], verdict)
    assert run.weights.tolist() == [0.5, 0.5]
    run.observe(draft, [None, distribution(conditional(0)(draft.token_ids[:1])), None], verdict)
    assert run.weights.tolist() != [0.5, 0.5]


def test_weights_depend_on_the_past_only() -> None:
    """What the target says of a draft changes the next one, and nothing in the one it is about."""
    drafter = group(("drawn", "drawn", "drawn"), 2)

    def drafts(last_target) -> list[list[np.ndarray]]:
        run, seen = drafter.start(PROMPT), []
        for target in (conditional(2), last_target, conditional(2)):
            rng = np.random.default_rng(7)
            draft = run.propose(PROMPT, Budget.chain(2), SAMPLER, rng)
            seen.append([law.probs.tolist() for law in draft.distributions])
            learn(run, draft, target, rng)
        return seen

    one, other = drafts(conditional(3)), drafts(conditional(8))
    assert one[:2] == other[:2]
    assert one[2] != other[2]


# -- in the loop ----------------------------------------------------------------------------------


def rounds_of(names, num_draft_tokens=4, **model_options):
    drafter = EnsembleDrafter(on_toys(names))
    settings = RoundSettings(drafter, num_draft_tokens, GREEDY)
    target = LocalTarget(ToyModel(0, **model_options))
    events = generate(ENGINE_PROMPT, target, settings, max_tokens=30)
    return [event for event in events if isinstance(event, RoundResult)]


@pytest.mark.parametrize("supports_trees", [True, False])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_temperature_zero_equals_plain_decoding(names, supports_trees: bool) -> None:
    for num_draft_tokens in (0, 1, 5):
        rounds = rounds_of(names, num_draft_tokens, supports_trees=supports_trees)
        assert tokens_of(rounds) == plain_greedy(ToyModel(0), 30)


def test_at_temperature_zero_the_weightier_members_token_stands_alone() -> None:
    rounds = rounds_of(("same", "other"))
    tokens = [c for r in rounds[3:] for c in r.candidates]
    assert {c.draft_prob for c in tokens} == {1.0}
    assert sum(r.num_accepted for r in rounds[3:]) == len(tokens)  # the better one has its way
    assert all(c.draft_entropy > 0.1 for c in tokens)  # and how sure both were is shown


def test_a_model_member_reads_each_token_once() -> None:
    """Asking it token by token costs it no more than drafting alone."""
    alone, member = ToyModel(0, 0.5), ToyModel(0, 0.5)
    target = LocalTarget(ToyModel(0))
    for drafter in (
        ModelDrafter(alone),
        EnsembleDrafter([ModelDrafter(member), NgramDrafter(min_ngram=4)]),
    ):
        settings = RoundSettings(drafter, 4, GREEDY)
        rounds = list(generate([1, 2, 3], target, settings, max_tokens=20))
        assert len(rounds) > 3
    assert member.num_fed == alone.num_fed
