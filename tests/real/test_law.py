"""The law of the output on real weights, and that a broken rule would be found: a small version.

`benchmarks.law` is the whole one, over every configuration. Seeds are fixed here, so that a failure
is no chance: it stays until something changed.
"""

from __future__ import annotations

import pytest

pytest.importorskip("scipy")

from benchmarks.law.bench import MIN_EXPECTED, PROMPT, Bench, Case
from benchmarks.law.exact import exact_law, fit
from specdec.settings import DEFAULT_MODEL

pytestmark = pytest.mark.weights

NUM_SAMPLES = 240
FALSE_ALARM = 1e-4
"""How often a sound rule would fail one of these tests, had the seeds been chosen by chance."""


@pytest.fixture(scope="module")
def bench(smollm2_folder):
    return Bench(DEFAULT_MODEL, PROMPT)


def tail(bench, case, seed, num_samples=NUM_SAMPLES):
    samples = [bench.sample(case, seed + index) for index in range(num_samples)]
    return fit(exact_law(bench.our_probs(case.sampler), MIN_EXPECTED / num_samples), samples)


@pytest.mark.parametrize(
    "case",
    [
        Case("none", 0, 0.8),
        Case("ngram", 2, 0.8),
        Case("layer-skip", 2, 0.8, top_p=0.9),
        Case("smollm2-draft", 2, 0.8, top_k=20),
        Case("smollm2-draft", 3, 0.8, top_k=20, rule="block"),
        Case("smollm2-draft 2-1", 2, 0.8, top_k=20),
        Case("smollm2-draft auto", 6, 0.8, top_k=20),
        Case("smollm2-draft+ngram", 3, 0.8, top_k=20),
        Case("smollm2-draft|suffix", 3, 0.8, top_k=20),
        Case("lookahead", 8, 0.8),
        Case("smollm2-eagle", 3, 0.8, top_k=20),
    ],
    ids=lambda case: f"{case.draft}, {case.rule}",
)
def test_three_tokens_follow_the_law_of_the_target(bench, case):
    found = tail(bench, case, seed=1000)
    assert found.freedom >= 5
    assert found.p > FALSE_ALARM


def test_with_nothing_remembered_the_same_seeds_write_the_same_tokens(bench):
    for case in (Case("layer-skip", 3, 0.8), Case("smollm2-draft", 6, 0.8)):
        for seed in range(3):
            assert bench.sample(case, seed, remembers=False) == bench.sample(case, seed)


@pytest.mark.parametrize(
    ("mistake", "num_samples"), [("argmax", 240), ("resample", 400), ("discard", 400)]
)
def test_a_rule_that_is_broken_on_purpose_is_found(bench, mistake, num_samples):
    broken = Bench(DEFAULT_MODEL, PROMPT, mistake)
    broken.remembering = bench.remembering
    case = Case("smollm2-draft", 2, 0.8, top_k=20)
    assert tail(broken, case, 1000, num_samples).p < FALSE_ALARM
