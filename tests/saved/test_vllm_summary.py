"""vLLM's totals, as vLLM documents them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from specdec.errors import TraceError
from specdec.records import FinishReason
from specdec.saved.trace import dump_trace, parse_trace
from specdec.saved.vllm_summary import parse_vllm_summary, vllm_summary
from tests.made_runs import runs, tiny_run

DOCUMENTED = {
    "mean_acceptance_length": 1.2325581395348837,
    "draft_acceptance_rate": 0.07751937984496124,
    "acceptance_histogram": [39, 1, 0, 3],
    "num_spec_steps": 43,
    "num_accepted_draft_tokens": 10,
    "num_draft_tokens": 129,
    "num_spec_tokens": 3,
}
"""The example in vLLM's documentation."""


def parse(document: object):
    return parse_vllm_summary(json.dumps(document).encode(), name="response.json")


class TestReading:
    def test_the_documented_example_gives_its_own_rates(self):
        summary = parse({"metrics": {"speculative_decoding": DOCUMENTED}}).summary
        assert summary.mean_acceptance_length == DOCUMENTED["mean_acceptance_length"]
        assert summary.draft_acceptance_rate == DOCUMENTED["draft_acceptance_rate"]
        assert summary.accepted_per_pos == (4, 3, 3)
        assert summary.num_tokens == 53
        assert summary.tokens_per_s is None

    def test_the_metrics_alone_are_enough(self):
        assert parse(DOCUMENTED).summary == parse({"speculative_decoding": DOCUMENTED}).summary

    def test_a_whole_response_fills_in_the_rest(self):
        run = parse(
            {
                "model": "big",
                "created": 1_767_225_600,
                "choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 60},
                "metrics": {
                    "time_to_first_token_ms": 500.0,
                    "generation_time_ms": 3000.0,
                    "speculative_decoding": DOCUMENTED | {"per_step_drafted": [3] * 42 + [1]},
                },
            }
        )
        assert (run.target.name, run.text) == ("big", "Hello")
        assert run.started_at == "2026-01-01T00:00:00+00:00"
        assert run.summary.finish_reason is FinishReason.LENGTH
        assert run.summary.num_target_calls == 43 + (60 - 53)
        assert run.summary.tokens_per_s == 60 / 3.0
        assert run.summary.drafted_per_pos == (43, 42, 42)
        assert run.config is None

    @pytest.mark.parametrize(
        "change",
        [
            {"num_spec_steps": 42},
            {"num_spec_steps": "43"},
            {"num_accepted_draft_tokens": 11},
            {"num_draft_tokens": 3},
            {"acceptance_histogram": [39, 1, 0, 3.5]},
            {"acceptance_histogram": None},
            {"acceptance_histogram": [-1, 44]},
            {"acceptance_histogram": [0] * 100_000},
            {"per_step_drafted": [10**9]},
        ],
    )
    def test_totals_that_contradict_themselves_are_refused(self, change):
        with pytest.raises(TraceError, match=r"^response\.json: .*\.$"):
            parse(DOCUMENTED | change)

    def test_a_response_without_the_totals_says_what_is_missing(self):
        with pytest.raises(TraceError, match="speculative_decoding"):
            parse({"choices": [], "metrics": {"speculative_decoding": None}})

    def test_the_imported_run_can_be_kept(self):
        run = parse(DOCUMENTED)
        assert parse_trace(dump_trace(run)) == run


class TestWriting:
    def test_a_run_is_reported_under_vllms_names(self, tmp_path):
        run = tiny_run(tmp_path, num_tokens=40)
        metrics = vllm_summary(run)["metrics"]["speculative_decoding"]
        assert set(DOCUMENTED) <= set(metrics)
        assert len(metrics["acceptance_histogram"]) == metrics["num_spec_tokens"] + 1
        assert sum(metrics["acceptance_histogram"]) == metrics["num_spec_steps"]
        assert sum(metrics["per_step_accepted"]) == metrics["num_accepted_draft_tokens"]
        assert sum(metrics["per_step_drafted"]) == metrics["num_draft_tokens"]
        by_length = metrics["acceptance_histogram_by_draft_length"]
        assert sum(map(sum, by_length.values())) == metrics["num_spec_steps"]

    @settings(max_examples=25)
    @given(runs())
    def test_what_was_written_is_read_with_the_same_counts(self, run):
        back = parse(vllm_summary(run)).summary
        for name in ("num_tokens", "num_spec_steps", "num_draft_tokens", "num_prompt_tokens"):
            assert getattr(back, name) == getattr(run.summary, name)
        assert back.draft_acceptance_rate == run.summary.draft_acceptance_rate
        assert back.accepted_per_pos == run.summary.accepted_per_pos
