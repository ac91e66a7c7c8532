"""What leaves the house can be read by those it is meant for."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from specdec.errors import TraceError
from specdec.saved.exports import EXPORTS, TOKEN_COLUMNS, read_run, spec_bench, token_csv
from specdec.saved.trace import dump_trace
from tests.made_runs import runs, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=40)


@settings(max_examples=25)
@given(runs())
def test_every_run_can_be_exported_as_everything(run):
    for export in EXPORTS:
        assert export.make(run)


def test_an_empty_file_is_said_to_be_empty():
    with pytest.raises(TraceError, match=r"x\.json is empty"):
        read_run(b"\n", name="x.json")


def test_suffixes_and_names_are_all_different():
    assert len({export.name for export in EXPORTS}) == len(EXPORTS)
    assert len({export.suffix for export in EXPORTS}) == len(EXPORTS)


class TestTokenTable:
    def test_there_is_one_row_per_drafted_and_final_token(self, run):
        rows = list(csv.DictReader(io.StringIO(token_csv(run).decode())))
        assert tuple(rows[0]) == TOKEN_COLUMNS
        finals = sum(result.final is not None for result in run.rounds)
        assert len(rows) == run.summary.num_draft_tokens + finals
        assert sum(row["status"] == "accepted" for row in rows) == (
            run.summary.num_accepted_draft_tokens
        )

    def test_numbers_and_texts_come_back_exactly(self, run):
        row = next(csv.DictReader(io.StringIO(token_csv(run).decode())))
        first = run.rounds[0].candidates[0]
        assert float(row["target_prob"]) == first.target_prob
        assert json.loads(row["token"]) == run.token_texts[first.token_id]

    @pytest.mark.parametrize("text", ["=1+1", "+", "@SUM(A1)", '"', "a\nb", "\t=", "-2"])
    def test_no_text_is_a_formula(self, run, text):
        texts = dict.fromkeys(run.token_texts, text)
        rows = csv.DictReader(io.StringIO(token_csv(replace(run, token_texts=texts)).decode()))
        cell = next(rows)["token"]
        assert cell.startswith('"')
        assert json.loads(cell) == text


class TestSpecBench:
    def test_speed_py_gets_what_it_reads(self, run):
        """Its arithmetic, in our own words: tokens over wall time, mean of accept_lengths."""
        lines = [json.loads(line) for line in spec_bench([run, run]).splitlines()]
        assert [line["question_id"] for line in lines] == [0, 1]
        choice = lines[0]["choices"][0]
        assert sum(choice["new_tokens"]) / sum(choice["wall_time"]) == pytest.approx(
            run.summary.num_tokens / run.summary.wall_s
        )
        assert sum(choice["accept_lengths"]) == run.summary.num_tokens
        assert len(choice["accept_lengths"]) == choice["decoding_steps"][0]
        assert choice["turns"] == [run.text]
        assert isinstance(lines[0]["category"], str)

    def test_lines_carry_the_fields_of_its_own_answers(self, run):
        (line,) = (json.loads(line) for line in spec_bench([run]).splitlines())
        assert list(line) == [
            "question_id",
            "category",
            "answer_id",
            "model_id",
            "choices",
            "tstamp",
        ]
        assert list(line["choices"][0]) == [
            "index",
            "turns",
            "decoding_steps",
            "new_tokens",
            "wall_time",
            "accept_lengths",
        ]

    def test_plain_decoding_emits_one_token_a_step(self, tmp_path):
        plain = tiny_run(tmp_path, k=0, num_tokens=9)
        (line,) = (json.loads(line) for line in spec_bench([plain]).splitlines())
        assert line["choices"][0]["accept_lengths"] == [1] * 9


class TestImport:
    def test_a_trace_is_recognised(self, run):
        assert read_run(dump_trace(run)) == run

    def test_a_vllm_response_is_recognised(self, run):
        export = next(export for export in EXPORTS if export.name == "vllm")
        assert read_run(export.make(run)).is_summary_only

    @pytest.mark.parametrize("data", [b"", b"hello", b"[]", b"{}", b"\x00" * 99, b"[" * 10**6])
    def test_anything_else_is_one_clear_error(self, data):
        with pytest.raises(TraceError, match=r"^upload\.bin") as refused:
            read_run(data, name="upload.bin")
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize("export", [e for e in EXPORTS if e.name not in ("trace", "vllm")])
    def test_other_exports_are_no_imports(self, run, export):
        with pytest.raises(TraceError):
            read_run(export.make(run))
