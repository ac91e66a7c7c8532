"""Block verification, proven by exact enumeration and held against the paper's own words."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from specdec.acceptance import Draft, verify
from specdec.block import RULES, name_of, verify_block
from specdec.codec import from_json, to_json
from specdec.drafters.model import ModelDrafter
from specdec.engine import RoundSettings, generate
from specdec.records import RoundResult, TokenStatus
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.test_acceptance import (
    ALMOST_ONE,
    VOCAB,
    Law,
    Probs,
    assert_target_law,
    conditional,
    distribution,
    outcomes,
)
from tests.test_engine import PROMPT, plain_greedy, tokens_of
from tests.toy import ScriptedRandom, ToyModel

Model = Callable[[tuple[int, ...]], Probs]


def chains(drafter: Model, depth: int) -> Iterator[tuple[Draft, float]]:
    """Yield every chain that may be drawn, with its probability."""
    for tokens in itertools.product(range(VOCAB), repeat=depth):
        laws = [drafter(tokens[:place]) for place in range(depth)]
        chance = np.prod([law[token] for law, token in zip(laws, tokens, strict=True)])
        if chance:
            yield Draft.chain(tokens, list(map(distribution, laws))), float(chance)


def rows_of(target: Model, draft: Draft) -> list[Probs]:
    return [target(draft.token_ids[:place]) for place in range(len(draft) + 1)]


def endings(
    draft: Draft, rows: Sequence[Probs | None]
) -> Iterator[tuple[int, Probs | None, float]]:
    """Yield (number of accepted tokens, law of the final one, probability) of a chain's rounds.

    The uniforms are forced: 0 passes every test that can be passed, and the number below 1 fails
    every test that can be failed.
    """
    for num_passed in range(len(draft) + 1):
        verdict = verify_block(draft, rows, ScriptedRandom([0.0] * num_passed, ALMOST_ONE))
        if len(verdict.path) != num_passed:
            continue
        chance = 1.0
        for test in verdict.tests:
            if test.acceptance_prob is not None:
                passed = test.status is TokenStatus.ACCEPTED
                chance *= test.acceptance_prob if passed else 1.0 - test.acceptance_prob
        yield num_passed, verdict.final_probs, chance


def block_law(drafter: Model, target: Model, depth: int, length: int, num_rows: int) -> Law:
    """Return the law of `length` tokens: one round with `num_rows` rows, then plain sampling."""
    law: Law = defaultdict(float)
    for draft, draft_chance in chains(drafter, depth):
        rows = [*rows_of(target, draft)[:num_rows], *[None] * (depth + 1 - num_rows)]
        for num_passed, final, chance in endings(draft, rows):
            kept = draft.token_ids[:num_passed]
            for rest in itertools.product(range(VOCAB), repeat=length - num_passed):
                sequence = (*kept, *rest)
                laws = [target(sequence[:place]) for place in range(num_passed, length)]
                if final is not None:
                    laws[0] = final
                tail = np.prod([one[token] for one, token in zip(laws, rest, strict=True)])
                law[sequence] += draft_chance * chance * float(tail)
    return law


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_chain_keeps_the_law_of_the_target(seed: int, depth: int) -> None:
    target, drafter = conditional(seed), conditional(seed + 100)
    law = block_law(drafter, target, depth, depth + 1, num_rows=depth + 1)
    assert_target_law(law, target, depth + 1)


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_rows_the_target_could_not_give_end_the_chain_and_keep_the_law(num_rows: int) -> None:
    target, drafter = conditional(3), conditional(103)
    law = block_law(drafter, target, 3, 4, num_rows)
    assert_target_law(law, target, 4)
    draft, _ = next(chains(drafter, 3))
    rows = [*rows_of(target, draft)[:num_rows], *[None] * (4 - num_rows)]
    all_kept = verify_block(draft, rows, ScriptedRandom([], rest=0.0))
    assert (len(all_kept.path), all_kept.final_token) == (num_rows, None)


def paper_law(draft: Draft, rows: Sequence[Probs]) -> list[float]:
    """Return the probabilities of accepting 0 … K tokens: Algorithm 2 of the paper, to the letter.

    Of its uniforms, the last that is below its h decides.
    """
    size, kept = len(draft), [1.0]
    for place, token in enumerate(draft.token_ids):
        ratio = rows[place][token] / draft.distributions[place].probs[token]
        kept.append(min(kept[-1] * ratio, 1.0))
    h = [1.0]
    for place in range(1, size):
        more = np.maximum(kept[place] * rows[place] - draft.distributions[place].probs, 0.0).sum()
        h.append(more / (more + 1.0 - kept[place]) if kept[place] < 1.0 else 1.0)
    h.append(kept[size])
    return [h[place] * float(np.prod(1.0 - np.array(h[place + 1 :]))) for place in range(size + 1)]


@pytest.mark.parametrize("seed", range(5))
def test_as_many_tokens_are_accepted_as_by_the_algorithm_of_the_paper(seed: int) -> None:
    target, drafter = conditional(seed), conditional(seed + 100)
    for draft, _ in chains(drafter, 3):
        rows = rows_of(target, draft)
        found = [0.0] * 4
        for num_passed, _, chance in endings(draft, rows):
            found[num_passed] += chance
        assert found == pytest.approx(paper_law(draft, rows), abs=1e-12)


def test_never_fewer_tokens_are_expected_than_token_by_token_and_mostly_more() -> None:
    gains = []
    for seed in range(60):
        target, drafter = conditional(seed), conditional(seed + 100)
        by_block = by_token = 0.0
        for draft, draft_chance in chains(drafter, 3):
            rows = rows_of(target, draft)
            by_block += draft_chance * sum(n * chance for n, _, chance in endings(draft, rows))
            by_token += draft_chance * sum(
                (len(emitted) - 1) * chance for emitted, chance in outcomes(draft, rows)
            )
        gains.append(by_block - by_token)
    assert min(gains) >= -1e-12
    assert sum(gain > 1e-3 for gain in gains) > 30


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_acceptance_of_the_tests_is_what_is_observed(seed: int) -> None:
    """At each place, over all chains: the tests that pass, and what was expected of them."""
    target, drafter = conditional(seed), conditional(seed + 100)
    observed, expected = np.zeros(3), np.zeros(3)
    for draft, draft_chance in chains(drafter, 3):
        rows = rows_of(target, draft)
        for num_passed, _, chance in endings(draft, rows):
            rng = ScriptedRandom([0.0] * num_passed, ALMOST_ONE)
            for place, test in enumerate(verify_block(draft, rows, rng).tests):
                if test.expected_acceptance is not None:
                    observed[place] += draft_chance * chance * (place < num_passed)
                    expected[place] += draft_chance * chance * test.expected_acceptance
    assert observed == pytest.approx(expected, abs=1e-12)


def test_a_token_passes_if_its_uniform_is_below_its_acceptance_probability() -> None:
    num_tested = [0, 0, 0]
    for draft, _ in chains(conditional(101), 3):
        rows = rows_of(conditional(1), draft)
        for place in range(3):
            start = [0.0] * place
            test = verify_block(draft, rows, ScriptedRandom(start)).tests[place]
            if test.acceptance_prob is not None and 0.0 < test.acceptance_prob < 1.0:
                num_tested[place] += 1
                below = float(np.nextafter(test.acceptance_prob, 0.0))
                passes = verify_block(draft, rows, ScriptedRandom([*start, below]))
                fails = verify_block(draft, rows, ScriptedRandom([*start, test.acceptance_prob]))
                assert passes.tests[place].status is TokenStatus.ACCEPTED
                assert fails.tests[place].status is TokenStatus.REJECTED
    assert min(num_tested) > 3


def test_behind_a_rejected_token_all_are_discarded() -> None:
    target, drafter = np.array([0.2, 0.8, 0.0]), np.array([0.9, 0.1, 0.0])
    draft = Draft.chain([0, 0, 1], [distribution(drafter)] * 3)
    verdict = verify_block(draft, [target] * 4, ScriptedRandom([0.0, ALMOST_ONE]))
    statuses = [test.status for test in verdict.tests]
    assert statuses == [TokenStatus.ACCEPTED, TokenStatus.REJECTED, TokenStatus.DISCARDED]
    assert [test.target_prob for test in verdict.tests] == [0.2, 0.2, None]
    assert (verdict.path, verdict.final_status) == ((0,), TokenStatus.RESAMPLED)
    raised = drafter / (0.2 / 0.9)
    left = np.maximum(target - raised, 0.0)
    assert verdict.final_probs == pytest.approx(left / left.sum(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_equal_distributions_accept_everything(seed: int) -> None:
    model = conditional(seed)
    for draft, _ in chains(model, 3):
        rows = [*rows_of(model, draft)]
        verdict = verify_block(draft, rows, ScriptedRandom([], ALMOST_ONE))
        assert [t.status for t in verdict.tests] == [TokenStatus.ACCEPTED] * 3
        assert verdict.final_status is TokenStatus.BONUS


@pytest.mark.parametrize("kind", ["a tree", "a chosen token", "one token", "nothing"])
def test_the_other_rule_decides_where_there_is_no_block(kind: str) -> None:
    drafter, target = conditional(101), conditional(1)
    law, below = distribution(drafter(())), distribution(drafter((0,)))
    draft = {
        "a tree": Draft((0, 1, 2), (-1, -1, 0), (law, law, below)),
        "a chosen token": Draft.chain([0, 1], [law, None]),
        "one token": Draft.chain([0], [law]),
        "nothing": Draft(),
    }[kind]
    rows = [target(()), *(target(tuple(draft.tokens_to(node))) for node in range(len(draft)))]
    for seed in range(20):
        one = verify(draft, rows, np.random.default_rng(seed))
        other = verify_block(draft, rows, np.random.default_rng(seed))
        assert one.tests == other.tests
        assert (one.path, one.final_token) == (other.path, other.final_token)


def test_tokens_the_target_hardly_knows_leave_no_number_that_is_not_finite() -> None:
    """In float32, where the product of their chances would be 0 and its inverse infinite."""
    target = np.array([1e-20, 1.0, 0.0], np.float32)
    law = distribution(np.array([1.0, 0.0, 0.0], np.float32))
    verdict = verify_block(Draft.chain([0] * 4, [law] * 4), [target] * 5, ScriptedRandom([]))
    assert (verdict.path, verdict.final_token) == ((), 1)
    assert np.isfinite(verdict.final_probs).all()


# -- in the loop ----------------------------------------------------------------------------------


def run(rule, temperature: float, noise: float = 0.5, **model_options) -> list[RoundResult]:
    drafter = ModelDrafter(ToyModel(0, noise=noise))
    settings = RoundSettings(drafter, 4, Sampler(temperature), rule=rule)
    target = LocalTarget(ToyModel(0, **model_options))
    events = generate(PROMPT, target, settings, max_tokens=40, seed=3)
    return [event for event in events if isinstance(event, RoundResult)]


@pytest.mark.parametrize("supports_trees", [True, False])
def test_temperature_zero_equals_plain_decoding(supports_trees: bool) -> None:
    rounds = run(verify_block, 0.0, supports_trees=supports_trees)
    assert tokens_of(rounds) == plain_greedy(ToyModel(0), 40)
    assert sum(r.num_accepted for r in rounds) > 0


@pytest.mark.parametrize("name", RULES)
def test_a_round_names_the_rule_that_decided(name: str) -> None:
    asked = []

    def spy(draft, rows, rng):
        asked.append(draft)
        return RULES[name](draft, rows, rng)

    rounds = run(RULES[name], 1.0)
    assert {r.rule for r in rounds} == {name}
    assert tokens_of(run(spy, 1.0)) == tokens_of(rounds)
    assert len(asked) == len(rounds)
    assert name_of(spy) == "spy"


def test_a_round_without_a_rule_was_decided_token_by_token() -> None:
    """So are those that were saved before there was another one."""
    result = run(verify, 1.0)[0]
    saved = to_json(result)
    del saved["rule"]
    assert from_json(RoundResult, saved, "round") == result
