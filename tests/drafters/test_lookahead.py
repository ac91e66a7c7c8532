"""Lookahead: its window is the mask of the paper, its pool what the target said, its law exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.acceptance import Draft, verify
from specdec.drafters.lookahead import POOL, WINDOW, LookaheadDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES, Budget
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from tests.drafters.test_suffix import FixedBudget
from tests.test_acceptance import VOCAB, assert_target_law, conditional, sequence_law
from tests.toy import ToyModel

RNG = np.random.default_rng(0)
GREEDY = Sampler(0.0)


def answers(model: ToyModel, context: Sequence[int], draft: Draft) -> list[Distribution]:
    """Return what a model says after the context and after each node."""
    paths = [[*context, *draft.tokens_to(node)] for node in range(-1, len(draft))]
    return [Distribution.from_logits(model.logits_after(path), GREEDY) for path in paths]


def rounds_of(drafter: LookaheadDrafter, model: ToyModel, prompt: list[int], count: int):
    """Yield context, draft and run of each round, at temperature 0."""
    run, context = drafter.start(prompt), list(prompt)
    for _ in range(count):
        draft = run.propose(context, Budget.chain(16), GREEDY, RNG)
        rows = answers(model, context, draft)
        verdict = verify(draft, [row.probs for row in rows], RNG)
        run.observe(draft, rows, verdict)
        yield context, draft, run
        context = [*context, *(draft.token_ids[node] for node in verdict.path)]
        context.append(verdict.final_token)


@pytest.mark.parametrize(("window", "ngram"), [(1, 2), (3, 2), (5, 3), (4, 4)])
def test_each_column_hangs_from_the_oldest_iteration_at_its_place(window, ngram):
    drafter = LookaheadDrafter(window, ngram, candidates=1)
    rounds = list(rounds_of(drafter, ToyModel(1, vocab_size=40), [1, 2, 3], ngram + 2))
    for _, draft, _ in rounds[ngram:]:
        of_window = [n for n in range(len(draft)) if draft.drafted_by[n] == WINDOW]
        depths = [draft.depths[node] for node in of_window]
        assert max(depths) == window + ngram - 3
        assert len(of_window) <= window * (ngram - 1)


def test_the_pool_holds_what_the_target_answered_down_a_column():
    model = ToyModel(3, vocab_size=30)
    drafter = LookaheadDrafter(window=4, ngram=3, candidates=3)
    before: set[tuple[int, ...]] = set()
    num_kept = 0
    for context, draft, run in rounds_of(drafter, model, [1, 2, 3, 4], 12):
        kept = {(first, *after) for first, each in run.pool.items() for after in each}
        paths = [tuple(draft.tokens_to(node)) for node in range(len(draft))]
        for first, second, third in kept - before:
            ends = [path for path in paths if path[-2:] == (first, second)]
            said = {int(model.logits_after([*context, *path]).argmax()) for path in ends}
            assert third in said
            num_kept += 1
        assert all(len(each) <= 3 for each in run.pool.values())
        before = kept
    assert num_kept > 10


def test_on_a_text_in_a_circle_the_pool_soon_writes_most_of_it():
    model = ToyModel(0, vocab_size=9)
    model.table[:] = 0.0
    for token_id in range(9):
        model.table[:, token_id, (token_id + 1) % 9] = 9.0
    settings = RoundSettings(LookaheadDrafter(), 8, GREEDY)
    events = generate([0, 4], LocalTarget(model), settings, max_tokens=120)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert len(rounds) < 70
    accepted = [one.drafted_by for result in rounds for one in result.accepted]
    assert accepted.count(POOL) > 30


@given(
    depth=st.integers(0, 16),
    window=st.integers(1, 6),
    ngram=st.integers(2, 4),
    candidates=st.integers(1, 4),
    seed=st.integers(0, 50),
)
def test_a_draft_keeps_to_its_depth_and_never_doubles_a_sibling(
    depth, window, ngram, candidates, seed
):
    run = LookaheadDrafter(window, ngram, candidates).start([seed % 6, 1])
    model, context = ToyModel(seed), [seed % 6, 1]
    for _ in range(8):
        draft = run.propose(context, Budget.chain(depth), GREEDY, RNG)
        assert all(node_depth < depth for node_depth in draft.depths)
        assert len(draft) <= min(MAX_NODES, (window + candidates) * (ngram - 1))
        assert len(set(zip(draft.parents, draft.token_ids, strict=True))) == len(draft)
        assert draft.distributions == (None,) * len(draft)
        rows = answers(model, context, draft)
        run.observe(draft, rows, verify(draft, [row.probs for row in rows], RNG))
        context.append(int(rows[0].probs.argmax()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [0, 1, 2, 3, 8, 16])
def test_temperature_zero_equals_plain_decoding(seed, depth):
    model, written = ToyModel(seed), [1, 2, 3]
    settings = RoundSettings(LookaheadDrafter(), 4, GREEDY, FixedBudget(Budget.chain(depth)))
    events = list(generate(written, LocalTarget(model), settings, max_tokens=60))
    output = [i for one in events if isinstance(one, RoundResult) for i in one.emitted]
    for _ in range(60):
        written = [*written, int(model.logits_after(written).argmax())]
    assert output == written[3:]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_drafted_keeps_the_law_of_the_target(seed):
    """The draft of any round is a tree of point masses; its law by enumeration, exactly."""
    model = ToyModel(seed, vocab_size=VOCAB)
    drafter = LookaheadDrafter(window=2, ngram=3, candidates=2)
    widest = 0
    for _, draft, _ in rounds_of(drafter, model, [1, 2], 7):
        widest = max(widest, *map(len, draft.children()))
        target, length = conditional(seed), max(draft.depths) + 2
        assert_target_law(sequence_law(iter([(draft, 1.0)]), target, length), target, length)
    assert widest > 1


def test_a_column_that_got_no_answer_keeps_its_guess():
    run = LookaheadDrafter(window=3, ngram=2).start([1, 2, 3])
    draft = run.propose([1, 2, 3], Budget.chain(8), GREEDY, RNG)
    rows = answers(ToyModel(2), [1, 2, 3], draft)
    verdict = verify(draft, [row.probs for row in rows], RNG)
    run.observe(draft, [rows[0], None, *rows[2:]], verdict)
    assert 1 not in run.pool
    assert {2, 3} <= set(run.pool)


@pytest.mark.parametrize("options", [(0, 3, 1), (1, 1, 1), (1, 2, 0), (40, 3, 1)])
def test_what_makes_no_window_is_refused(options):
    with pytest.raises(SettingsError, match="Lookahead needs"):
        LookaheadDrafter(*options)
