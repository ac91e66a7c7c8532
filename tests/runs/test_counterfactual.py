"""A run at another K, read off a recorded one, is the run that the engine makes at that K."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.drafters.model import ModelDrafter
from specdec.engine import RoundSettings, generate
from specdec.metrics import Baseline, Totals
from specdec.records import RoundResult
from specdec.runs.counterfactual import CutRound, Known, cut_rounds, what_if
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.made_runs import tiny_run
from tests.toy import ToyModel

NUM_TOKENS = 60


def rounds_at(k, *, noise, seed=3, num_tokens=NUM_TOKENS, eos=()):
    """Return the engine's rounds of a greedy run with a blurred draft of the target."""
    target, draft = LocalTarget(ToyModel(seed)), ModelDrafter(ToyModel(seed, noise))
    settings = RoundSettings(draft, k, Sampler(0.0))
    events = generate((1, 2), target, settings, max_tokens=num_tokens, eos_token_ids=eos)
    return tuple(event for event in events if isinstance(event, RoundResult))


def as_run(folder, rounds, *, max_tokens=NUM_TOKENS, baseline=None):
    run = tiny_run(folder)
    config = replace(run.config, temperature=0.0, max_tokens=max_tokens)
    return replace(run, rounds=rounds, config=config, baseline=baseline)


def shape(rounds):
    return [
        CutRound(one.position, one.num_drafted, min(one.num_accepted, len(one.emitted)))
        for one in rounds
    ]


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_where_it_claims_to_be_exact_it_is_the_real_run(tmp_path, noise, seed):
    recorded = as_run(tmp_path, rounds_at(8, noise=noise, seed=seed))
    claims = 0
    for k in range(9):
        found = cut_rounds(recorded, k)
        if found is not None:
            claims += 1
            assert found == shape(rounds_at(k, noise=noise, seed=seed))
    assert claims >= 2  # K = 0, and the recorded one


def test_it_is_exact_for_many_k_where_drafts_fail_early(tmp_path):
    recorded = as_run(tmp_path, rounds_at(8, noise=5.0, seed=2))
    assert sum(cut_rounds(recorded, k) is not None for k in range(9)) >= 5


def test_an_end_token_inside_a_draft_ends_the_cut_run_too(tmp_path):
    whole = rounds_at(8, noise=0.5)
    ids = [token for one in whole for token in one.emitted]
    eos = (ids[20],)
    recorded = as_run(tmp_path, rounds_at(8, noise=0.5, eos=eos))
    for k in range(9):
        found = cut_rounds(recorded, k)
        if found is not None:
            assert found == shape(rounds_at(k, noise=0.5, eos=eos))


@pytest.mark.parametrize(
    "change",
    [
        {"drafter": "ngram"},
        {"policy": "adaptive"},
        {"rule": "block"},
        {"drafter": "a+b"},
        {"reads_states": True},
    ],
    ids=["memory", "policy", "rule", "mixture", "head"],
)
def test_what_depends_on_more_than_the_context_is_not_read_off(tmp_path, change):
    rounds = tuple(replace(one, **change) for one in rounds_at(8, noise=5.0))
    recorded = as_run(tmp_path, rounds)
    assert cut_rounds(recorded, 2) is None
    assert cut_rounds(recorded, 0) is not None  # plain decoding needs no draft


class TestTimes:
    @pytest.fixture
    def run(self, tmp_path):
        rounds = tuple(
            replace(
                one,
                draft_s=0.01 * one.num_drafted,
                verify_s=0.04 + 0.002 * one.num_drafted + 0.05,
                link_s=0.05,
                sample_s=0.0,
                wall_s=0.09 + 0.012 * one.num_drafted,
            )
            for one in rounds_at(8, noise=5.0, seed=2)
        )
        made = as_run(tmp_path, rounds, baseline=Baseline(10, 0.9, 0.5))
        return replace(made, summary=Totals(rounds).summary())

    def test_a_link_costs_each_round_and_a_draft_each_token(self, run):
        found = what_if(run, 0, 0.1)
        assert found.known is Known.EXACT
        assert found.tokens_per_s == pytest.approx(1 / 0.14)
        assert found.times_plain == pytest.approx(1.0)
        exact = next(k for k in range(7, 0, -1) if cut_rounds(run, k) is not None)
        at = what_if(run, exact, 0.2, 2.0)
        assert at.known is Known.EXACT
        rounds, drafted = at.num_rounds, at.num_drafted
        assert at.seconds == pytest.approx(0.24 * rounds + 0.022 * drafted)

    def test_more_than_was_drafted_is_predicted(self, run):
        found = what_if(run, 12, 0.05)
        assert found.known is Known.PREDICTED
        assert 0 < found.num_rounds <= NUM_TOKENS

    def test_above_temperature_0_it_is_one_possible_run(self, run):
        warm = replace(run, rounds=tuple(replace(one, temperature=1.0) for one in run.rounds))
        assert what_if(warm, 8, 0.05).known is Known.POSSIBLE

    @pytest.mark.parametrize("baseline", [None, Baseline(0, 0.0, 0.0)], ids=["none", "empty"])
    @pytest.mark.parametrize("k", [0, 1, 4, 8, 16])
    def test_without_a_baseline_only_what_needs_one_is_left_out(self, run, baseline, k):
        with_one, found = what_if(run, k, 0.1), what_if(replace(run, baseline=baseline), k, 0.1)
        assert (found.known, found.num_tokens) == (with_one.known, with_one.num_tokens)
        assert (found.num_rounds, found.num_drafted) == (with_one.num_rounds, with_one.num_drafted)
        assert found.times_plain is None
        # Calls of this run hold 8 drafted tokens, but for the last one or two.
        assert found.seconds == pytest.approx(
            0.155 * found.num_rounds + 0.01 * found.num_drafted, rel=0.01
        )

    @pytest.mark.parametrize("link_s", [0.05, 0.5])
    def test_without_a_baseline_the_recorded_run_is_the_measure(self, run, link_s):
        found = what_if(replace(run, baseline=None), 8, link_s)
        added_s = (link_s - 0.05) * found.num_rounds
        assert found.seconds == pytest.approx(run.summary.decode_s + added_s)
        assert found.times_recorded == pytest.approx(run.summary.decode_s / found.seconds)

    @pytest.mark.parametrize("baseline", [None, Baseline(10, 0.9, 0.5)], ids=["without", "with"])
    def test_a_run_without_drafts_says_what_a_link_does_and_no_more(self, run, baseline):
        rounds = rounds_at(0, noise=1.0)
        rounds = tuple(replace(one, draft_s=0.0, wall_s=0.04) for one in rounds)
        plain = replace(run, rounds=rounds, summary=Totals(rounds).summary(), baseline=baseline)
        found = what_if(plain, 0, 0.1)
        assert (found.known, found.num_rounds) == (Known.EXACT, NUM_TOKENS)
        assert found.seconds == pytest.approx(0.14 * NUM_TOKENS)
        assert what_if(plain, 3, 0.1) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"rounds": ()},
            {"baseline": Baseline(10, 0.1, 0.5)},
            {"baseline": None, "summary": Totals(()).summary()},
        ],
        ids=["no rounds", "impossible times", "no calls"],
    )
    def test_what_has_no_rounds_or_no_real_times_says_nothing(self, run, change):
        assert what_if(replace(run, **change), 2, 0.0) is None

    def test_a_tree_costs_all_its_nodes(self, run):
        wide = tuple(
            replace(one, candidates=tuple(c for c in one.candidates for _ in range(2)))
            for one in run.rounds
        )
        found, chain = what_if(replace(run, rounds=wide), 12, 0.05), what_if(run, 12, 0.05)
        assert found.known is Known.PREDICTED
        assert found.num_drafted > 1.9 * chain.num_drafted * (found.num_rounds / chain.num_rounds)
