"""Whether an output is the target's own: checked token by token, and by how many tests passed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.records import RoundResult, TokenStatus
from specdec.runs import audit
from specdec.sampling import Sampler
from tests.made_runs import runs, tiny_events, tiny_pair


def sampled_rounds(folder, *, seed, num_tokens):
    _, events = tiny_events(folder, seed=seed, num_tokens=num_tokens, k=4)
    return [event for event in events if isinstance(event, RoundResult)]


def greedy_rounds(folder, k, drafter=None):
    pair = tiny_pair(folder)
    settings = RoundSettings(drafter or pair.drafter, k, Sampler(0.0))
    events = generate([5, 6], pair.target, settings, max_tokens=40)
    return [event for event in events if isinstance(event, RoundResult)]


def test_greedy_runs_of_different_drafts_compare_as_identical(tmp_path):
    plain = greedy_rounds(tmp_path, 0, NoDrafter())
    found = audit.compare(greedy_rounds(tmp_path, 4), plain)
    assert (found.num_compared, found.divergence, found.margin) == (40, None, None)


def test_the_first_difference_is_found_with_the_margin_of_the_target(tmp_path):
    plain = greedy_rounds(tmp_path, 0, NoDrafter())
    ours = list(plain)
    ours[7] = replace(ours[7], emitted=(ours[7].emitted[0] + 1,))
    found = audit.compare(ours, plain)
    tops = sorted((t.target_logprob for t in plain[7].final.top_tokens), reverse=True)
    assert found.divergence == 7
    assert found.margin == pytest.approx(tops[0] - tops[1])


def test_a_run_of_the_engine_lies_in_its_band(tmp_path):
    """A seeded run; over all seeds the chance of a false alarm is 5 % by construction."""
    check = audit.check_acceptance(sampled_rounds(tmp_path, seed=11, num_tokens=300))
    assert check.is_inside
    assert check.low < check.expected < check.high


def test_a_rule_that_takes_everything_is_caught(tmp_path):
    bent = [
        replace(
            r,
            candidates=tuple(replace(c, status=TokenStatus.ACCEPTED) for c in r.candidates),
        )
        for r in sampled_rounds(tmp_path, seed=1, num_tokens=120)
    ]
    assert not audit.check_acceptance(bent).is_inside


def test_without_tests_there_is_nothing_to_check(tmp_path):
    assert audit.check_acceptance(greedy_rounds(tmp_path, 0, NoDrafter())) is None


@settings(max_examples=60)
@given(runs())
def test_no_run_that_a_file_can_hold_is_too_strange_to_be_checked(run):
    tests = [c for r in run.rounds for c in r.candidates if c.expected_acceptance is not None]
    check = audit.check_acceptance(run.rounds)
    assert (check.num_tests if check else 0) == len(tests)
