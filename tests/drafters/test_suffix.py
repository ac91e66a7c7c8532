"""Suffix decoding: counted as a scan would count, bounded in cost, and blind to the rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies

from specdec.acceptance import Draft
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.suffix import Sequel, SuffixDrafter, SuffixIndex
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.records import RoundResult, TokenStatus
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.test_acceptance import assert_target_law, conditional, sequence_law
from tests.toy import ToyModel

RNG = np.random.default_rng(0)
TREE = Budget(depth=4, num_nodes=12)
Nodes = list[tuple[int, int]]


def name_of(budget: Budget) -> str:
    """Name a case the same in every process."""
    return f"{budget.depth}-deep-{budget.num_nodes}-nodes"


def propose(context: Sequence[int], budget: Budget, **options: float) -> Draft:
    return SuffixDrafter(**options).start(context).propose(context, budget, Sampler(), RNG)


def nodes_of(draft: Draft) -> Nodes:
    return list(zip(draft.token_ids, draft.parents, strict=True))


def scan(context: Sequence[int], budget: Budget, drafter: SuffixDrafter) -> Nodes:
    """Draft without an index: every count is a scan of the text."""
    window, max_depth = drafter.window, drafter.max_depth
    text = list(context[max(0, len(context) // window - 1) * window :])

    def ends(sequence: list[int]) -> list[int]:
        starts = range(len(text) - len(sequence) + 1)
        return [at + len(sequence) for at in starts if text[at : at + len(sequence)] == sequence]

    def counted_ends(sequence: list[int]) -> list[int]:
        if len(sequence) < max_depth:
            return ends(sequence)
        return [ends(sequence[:max_depth])[-1] + len(sequence) - max_depth]

    def grow(length: int, size: int) -> tuple[Nodes, float]:
        nodes: Nodes = []
        paths, total = [text[-length:]], 0.0
        waiting: list[tuple[float, int, int, int, int]] = []
        score, depth = 1.0, 0
        while True:
            if depth < budget.depth:
                after = counted_ends(paths[-1])
                counts = Counter(text[end] for end in after if end < len(text))
                found = [
                    (-score * number / counts.total(), depth + 1, -last, token_id, len(nodes) - 1)
                    for token_id, number in counts.items()
                    for last in [counted_ends([*paths[-1], token_id])[-1]]
                ]
                is_chain = budget.num_nodes <= budget.depth
                waiting += sorted(found)[:1] if is_chain else found
            if not waiting or len(nodes) >= size or -min(waiting)[0] < drafter.min_score:
                return nodes, total
            entry = min(waiting)
            waiting.remove(entry)
            score, depth = -entry[0], entry[1]
            nodes.append(entry[3:])
            paths.append([*paths[entry[4] + 1], entry[3]])
            total += score

    best: Nodes = []
    most = 0.0
    for length in range(min(len(text), max_depth) - 1, 0, -1):
        if len(ends(text[-length:])) > 1:
            nodes, total = grow(length, min(budget.num_nodes, int(drafter.alpha * length)))
            if total > most:
                best, most = nodes, total
    return best


texts = strategies.integers(1, 3).flatmap(
    lambda largest: strategies.lists(strategies.integers(0, largest), min_size=1, max_size=40)
)
budgets = strategies.builds(Budget, strategies.integers(0, 6), strategies.integers(0, 12))
drafters = strategies.builds(
    SuffixDrafter,
    alpha=strategies.sampled_from([0.5, 1.0, 2.5]),
    min_score=strategies.sampled_from([0.0, 0.1, 0.4, 1.0]),
    max_depth=strategies.sampled_from([2, 3, 5, 24]),
    window=strategies.sampled_from([7, 16, 8192]),
)


@given(drafter=drafters, budget=budgets, context=texts, cuts=strategies.lists(texts, max_size=3))
def test_the_index_grown_round_by_round_equals_a_scan(
    drafter: SuffixDrafter, budget: Budget, context: list[int], cuts: list[list[int]]
) -> None:
    """The lengths of `cuts` are those of the rounds; the prompt is the first of them."""
    rounds = [context[: len(cut)] for cut in sorted(cuts, key=len)] + [context]
    run = drafter.start(rounds[0])
    for seen in rounds:
        draft = run.propose(seen, budget, Sampler(), RNG)
        assert nodes_of(draft) == scan(seen, budget, drafter)


@given(drafter=drafters, contexts=strategies.lists(texts, min_size=2, max_size=4))
def test_equal_contexts_give_equal_drafts_whatever_was_read_before(
    drafter: SuffixDrafter, contexts: list[list[int]]
) -> None:
    """A context need not go on where the last one ended: shorter, changed or another text."""
    run = drafter.start(contexts[0])
    for context in contexts:
        fresh = drafter.start([]).propose(tuple(context), TREE, Sampler(), RNG)
        assert nodes_of(run.propose(context, TREE, Sampler(), RNG)) == nodes_of(fresh)


@given(drafter=drafters, budget=budgets, context=texts)
def test_a_draft_stays_within_its_budget_and_never_doubles_a_sibling(
    drafter: SuffixDrafter, budget: Budget, context: list[int]
) -> None:
    draft = drafter.start(context).propose(context, budget, Sampler(), RNG)
    assert len(draft) <= budget.num_nodes
    assert all(depth < budget.depth for depth in draft.depths)
    assert draft.is_chain or budget.num_nodes > budget.depth
    assert len(set(nodes_of(draft))) == len(draft)
    assert draft.distributions == (None,) * len(draft)


def test_the_most_frequent_continuation_wins_over_the_most_recent_one() -> None:
    context = [1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2]
    assert nodes_of(propose(context, Budget.chain(1))) == [(3, -1)]


def test_of_equally_frequent_continuations_the_most_recent_comes_first() -> None:
    context = [1, 2, 3, 1, 2, 4, 1, 2]
    assert nodes_of(propose(context, Budget.chain(2))) == [(4, -1), (1, 0)]
    assert nodes_of(propose(context, Budget(2, 4))) == [(4, -1), (3, -1)]
    assert nodes_of(propose(context, Budget(2, 4), alpha=2.0)) == [(4, -1), (3, -1), (1, 0), (1, 1)]


def test_a_longer_match_earns_a_longer_draft() -> None:
    story = list(range(100, 120))
    lengths = [len(propose([*story, 1, *story[:n]], Budget.chain(16))) for n in range(9)]
    assert lengths == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert len(propose([*story, 1, *story[:9]], Budget.chain(5))) == 5


def test_a_shorter_match_decides_only_where_it_promises_more() -> None:
    # After 0 0, each of 0, 1 and 2 once: two nodes of 1/3. After 0, four times of six, another 0:
    # one node of 2/3.
    equal = [0, 0, 1, 0, 0, 0, 2, 0, 0]
    assert nodes_of(propose(equal, Budget.chain(4))) == [(2, -1), (0, 0)]
    # The longest match, of six tokens, ended two tokens before the end.
    running_out = [3, 4, 3, 4, 3, 4, 3, 4]
    assert nodes_of(propose(running_out, Budget.chain(4))) == [(3, -1), (4, 0), (3, 1), (4, 2)]


@pytest.mark.parametrize("context", [[1], [1, 2, 3, 4], [1, 1, 2], []])
def test_nothing_is_drafted_after_what_never_stood_before(context: list[int]) -> None:
    assert len(propose(context, TREE)) == 0


def test_nothing_is_drafted_below_the_least_score() -> None:
    def followed_by(num_tokens: int) -> list[int]:
        return [token_id for other in range(1, num_tokens + 1) for token_id in (0, other)] + [0]

    assert nodes_of(propose(followed_by(10), TREE)) == [(10, -1)]
    assert nodes_of(propose(followed_by(11), TREE)) == []
    assert nodes_of(propose(followed_by(11), TREE, min_score=0.05)) == [(11, -1)]


@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_a_repetitive_text_is_drafted_longer_than_by_prompt_lookup(period: int) -> None:
    """Prompt lookup copies from the last occurrence, which ends one period before the end."""
    text = [index % period for index in range(40)]
    context, continuation = text[:30], text[30:38]
    ngram = NgramDrafter().start(context).propose(context, Budget.chain(8), Sampler(), RNG)
    suffix = propose(context, Budget.chain(8))
    assert suffix.is_chain
    assert list(suffix.token_ids) == continuation
    assert len(ngram) < len(suffix)


def test_the_last_tokens_are_known_and_what_lies_two_windows_back_is_forgotten() -> None:
    def drafted(num_before: int, num_since: int) -> Nodes:
        before, since = range(100, 100 + num_before), range(200, 200 + num_since)
        return nodes_of(propose([*before, 1, 2, *since, 1], TREE, window=20))

    assert all(drafted(num_before, 17) == [(2, -1)] for num_before in range(60))
    assert not any(drafted(num_before, 38) for num_before in range(60))


class CountedIndex(SuffixIndex):
    """Counts the nodes that it looks at: there is no other way to them than `followers`."""

    num_looked_at = 0

    def followers(self, node: Sequel) -> dict[int, Sequel]:
        self.num_looked_at += 1
        return super().followers(node)


def num_nodes(node: Sequel) -> int:
    return 1 + sum(map(num_nodes, (node.followers or {}).values()))


@pytest.mark.parametrize("num_kinds", [1, 2, 50, 2000])
@pytest.mark.parametrize("period", [1, 7, 300, 1200])
def test_a_token_costs_no_more_the_longer_the_text(num_kinds: int, period: int) -> None:
    max_depth = 12
    index = CountedIndex(max_depth)
    words = np.random.default_rng(num_kinds).integers(num_kinds, size=period).tolist()
    for number in range(1200):
        before = index.num_looked_at
        index.append(words[number % period])
        assert index.num_looked_at - before <= 2 * max_depth
    assert num_nodes(index.suffixes[0]) <= 1200 * max_depth


class FixedBudget:
    """A policy that always allows the same, and is its own run."""

    def __init__(self, budget: Budget) -> None:
        self.name = str(budget)
        self._budget = budget

    def start(self) -> FixedBudget:
        return self

    def budget(self, rounds: Sequence[RoundResult], num_draft_tokens: int) -> Budget:
        return self._budget


@pytest.mark.parametrize("budget", [*map(Budget.chain, [0, 1, 2, 3, 5, 8, 16]), TREE], ids=name_of)
@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_temperature_zero_equals_plain_decoding(budget: Budget, alpha: float) -> None:
    target = ToyModel(3)
    written = [1, 2, 3, 1, 2]
    settings = RoundSettings(SuffixDrafter(alpha), 4, Sampler(0.0), FixedBudget(budget))
    events = list(generate(written, LocalTarget(target), settings, max_tokens=60))
    rounds = [event for event in events if isinstance(event, RoundResult)]
    output = [token_id for one in rounds for token_id in one.emitted]
    for _ in range(60):
        written = [*written, int(target.logits_after(written).argmax())]
    assert output == written[5:]
    candidates = [candidate for one in rounds for candidate in one.candidates]
    accepted = sum(candidate.status is TokenStatus.ACCEPTED for candidate in candidates)
    assert (accepted > 0) is (budget.depth > 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [Budget(2, 6), Budget(3, 7)], ids=name_of)
def test_a_drafted_tree_keeps_the_law_of_the_target(seed: int, budget: Budget) -> None:
    draft = propose([2, 1, 1, 1, 1, 0, 1, 1], budget, alpha=4.0)
    siblings = draft.children()
    assert len(siblings[0]) == len(siblings[1]) == 2  # after the context and below
    assert max(draft.depths) == budget.depth - 1
    target, length = conditional(seed), budget.depth + 1
    assert_target_law(sequence_law(iter([(draft, 1.0)]), target, length), target, length)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"min_score": 1.5}, {"max_depth": 1}, {"window": 0}]
)
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"alpha > 0"):
        SuffixDrafter(**options)
