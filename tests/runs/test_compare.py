"""Comparing runs: what differs is found, what is alike is not made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.metrics import Baseline
from specdec.records import TokenStatus
from specdec.runs.compare import (
    KPIS,
    first_divergence,
    group_key,
    group_runs,
    kpi_table,
    setting_differences,
    time_shares,
)
from specdec.runs.diff import diff_runs
from tests.made_runs import record, runs, tiny_events, tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def run(folder):
    return tiny_run(folder, seed=1, num_tokens=30)


class TestKeyFigures:
    def test_the_reference_is_one_times_itself(self, run, folder):
        for row in kpi_table([tiny_run(folder, seed=2), run], reference=1):
            assert row.ratios[1] in (1.0, None)

    def test_what_is_not_known_has_no_ratio(self, run):
        with_baseline = replace(run, baseline=Baseline(4, 1.0, 0.0))
        row = next(r for r in kpi_table([with_baseline, run]) if r.kpi.name == "speedup")
        assert row.values == (run.summary.tokens_per_s / 4.0, None)
        assert row.ratios == (1.0, None)

    def test_a_run_without_a_token_has_figures_too(self, folder):
        empty = record(*tiny_events(folder, seed=1, num_tokens=3)[:1], []).run()
        assert [kpi.value(empty) for kpi in KPIS][:3] == [None, None, None]

    def test_the_shares_of_time_add_up(self, run):
        assert sum(time_shares(run.summary).values()) == pytest.approx(run.summary.wall_s)
        assert min(time_shares(run.summary).values()) > -1e-9


class TestSettings:
    def test_only_differences_are_named(self, run):
        other = replace(run, config=replace(run.config, num_draft_tokens=7), backend="mlx")
        assert [(d.name, d.values) for d in setting_differences([run, run, other])] == [
            ("num_draft_tokens", (3, 3, 7)),
            ("backend in use", ("portable", "portable", "mlx")),
        ]
        assert setting_differences([run, run]) == ()

    def test_repetitions_differ_in_the_seed_only(self, folder, run):
        again = tiny_run(folder, seed=9, num_tokens=30)
        longer = tiny_run(folder, seed=9, num_tokens=30, k=5)
        elsewhere = replace(run, environment={**run.environment, "processor": "abacus"})
        noted = replace(run, note="x", tags=("y",))
        assert group_key(run) == group_key(again) == group_key(noted)
        assert len({group_key(one) for one in (run, longer, elsewhere)}) == 3
        assert group_runs([longer, run, again]) == ((longer,), (run, again))

    def test_a_run_changed_on_the_way_is_no_repetition(self, run):
        rounds = (*run.rounds[:-1], replace(run.rounds[-1], num_draft_tokens=9))
        assert group_key(run) != group_key(replace(run, rounds=rounds))

    @pytest.mark.parametrize(
        "drafter", ["ngram-saved", "smollm2-eagle+ngram-saved", "a|ngram-saved"]
    )
    def test_a_run_that_read_saved_ones_is_no_repetition(self, run, drafter):
        recalling = replace(run, rounds=tuple(replace(one, drafter=drafter) for one in run.rounds))
        later = replace(recalling, started_at="2026-11-26T12:00:00.000001+00:00")
        assert group_key(recalling) == group_key(replace(recalling, note="x"))
        assert group_key(recalling) != group_key(later)

    @settings(max_examples=20)
    @given(runs())
    def test_every_run_has_a_group(self, run):
        assert group_key(run) == group_key(replace(run, title="new"))


class TestDivergence:
    def test_a_run_does_not_diverge_from_itself(self, run):
        assert first_divergence(run, run) is None

    def test_the_first_different_token_is_found(self, run):
        rounds = list(run.rounds)
        last = rounds[4]
        rounds[4] = replace(last, emitted=(last.emitted[0] + 1, *last.emitted[1:]))
        pieces = list(run.pieces)
        pieces[last.position] = "XYZ"
        other = replace(run, rounds=tuple(rounds), pieces=tuple(pieces))
        divergence = first_divergence(run, other)
        assert divergence.position == last.position
        assert divergence.common == "".join(run.pieces[: last.position])
        assert divergence.common + divergence.rest[0] == run.text
        assert divergence.rest[1].startswith("XYZ")

    def test_an_earlier_end_is_a_divergence(self, run):
        shorter = replace(run, rounds=run.rounds[:2], pieces=run.pieces[: run.rounds[2].position])
        divergence = first_divergence(run, shorter)
        assert divergence.position == run.rounds[2].position
        assert divergence.rest[1] == ""

    @given(st.text(), st.text(), st.text())
    def test_texts_of_different_targets_are_compared_by_character(self, run, alike, one, other):
        one, other = alike + one, alike + other
        left = replace(run, rounds=(), pieces=(one,))
        right = replace(run, rounds=(), pieces=(other,))
        divergence = first_divergence(left, right)
        if one == other:
            assert divergence is None
        else:
            assert divergence.position >= len(alike)
            assert divergence.common == one[: divergence.position]
            assert divergence.common + divergence.rest[1] == other
            assert divergence.rest[0][:1] != divergence.rest[1][:1]


class TestDiff:
    def test_the_same_seed_repeats_the_run(self, folder, run):
        again = tiny_run(folder, seed=1, num_tokens=30)
        assert not diff_runs(run, again)
        assert again.summary.wall_s != run.summary.wall_s

    def test_another_seed_does_not(self, folder, run):
        other = tiny_run(folder, seed=2, num_tokens=30)
        diff = diff_runs(run, other)
        assert diff
        assert diff.output is not None
        assert [d.name for d in diff.settings] == ["seed"]

    def changed(self, run, **change):
        first = run.rounds[0]
        candidates = (replace(first.candidates[0], **change), *first.candidates[1:])
        return replace(run, rounds=(replace(first, candidates=candidates), *run.rounds[1:]))

    def test_a_tolerance_passes_over_small_deviations(self, run):
        nudged = run.rounds[0].candidates[0].target_logprob + 1e-4
        other = self.changed(run, target_logprob=nudged)
        assert diff_runs(run, other).rounds[0].startswith("round 0, draft 0: target_logprob is")
        assert not diff_runs(run, other, tolerance=1e-3)

    @pytest.mark.parametrize("change", [{"uniform": None}, {"token_id": 5}, {"status": "pending"}])
    def test_no_tolerance_passes_over_another_decision(self, run, change):
        assert diff_runs(run, self.changed(run, **change), tolerance=9.0)

    def test_a_status_is_named_by_its_word(self, run):
        was = run.rounds[0].candidates[0].status
        [said] = diff_runs(run, self.changed(run, status=TokenStatus.DISCARDED)).rounds
        assert said == f"round 0, draft 0: status is {was.value} against discarded"

    def test_missing_rounds_and_tokens_are_differences(self, run):
        first = run.rounds[0]
        assert diff_runs(run, replace(run, rounds=run.rounds[:-1])).rounds
        for part in (replace(first, final=None), replace(first, candidates=())):
            assert diff_runs(run, replace(run, rounds=(part, *run.rounds[1:]))).rounds

    @settings(max_examples=20)
    @given(runs())
    def test_every_run_equals_itself(self, run):
        assert not diff_runs(run, run)
