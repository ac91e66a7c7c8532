"""The file format: nothing is lost, and nothing false gets in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.errors import TraceError
from specdec.saved.reader import MAX_LINE_BYTES
from specdec.saved.trace import dump_trace, parse_trace, read_trace, write_trace
from tests.made_runs import runs, tiny_run

SEED_FIELDS = {
    "draft_token": "round position token token_id logprob entropy top_tokens draft_time_ms",
    "verify_result": (
        "round position token token_id status final_token draft_logprob target_logprob "
        "acceptance_prob verify_latency_ms"
    ),
    "metrics": "draft_acceptance_rate tokens_per_s draft_s verify_s",
    "done": "finish_reason num_tokens wall_s draft_acceptance_rate tokens_per_s",
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> bytes:
    return dump_trace(tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=12))


def changed(trace: bytes, changed_event: str, **fields: object) -> bytes:
    """Return `trace` with fields of the first line of `changed_event` replaced."""
    lines = [json.loads(line) for line in trace.splitlines()]
    next(line for line in lines if line["event"] == changed_event).update(fields)
    return "\n".join(map(json.dumps, lines)).encode()


def message(data: bytes) -> str:
    with pytest.raises(TraceError) as refused:
        parse_trace(data, name="x.jsonl")
    assert "\n" not in str(refused.value)
    return str(refused.value)


TOP = {
    "token_id": 1,
    "token": "a",
    "draft_prob": 0.5,
    "target_prob": 0.5,
    "draft_logprob": -1.0,
    "target_logprob": -1.0,
}


def block(calls_s, links_s):
    return {"calls_s": calls_s, "links_s": links_s}


BASELINE = {"num_tokens": 1, "decode_s": 1.0, "link_s": 0.0}


class TestRoundTrip:
    @settings(max_examples=40)
    @given(runs(), st.booleans())
    def test_every_run_comes_back_bit_for_bit(self, run, only_essential):
        back = parse_trace(dump_trace(run, only_essential=only_essential))
        assert back == run
        assert dump_trace(back) == dump_trace(run)  # tells −0.0 from 0.0, as == does not

    def test_a_real_run_goes_through_a_file(self, tmp_path):
        run = tiny_run(tmp_path)
        write_trace(run, tmp_path / "run.jsonl")
        assert read_trace(tmp_path / "run.jsonl") == run
        assert not list(tmp_path.glob("*.part"))

    def test_lines_are_strict_json_even_where_numbers_are_infinite(self, trace):
        logprob = float("-inf")
        data = changed(trace, "verify_result", target_logprob=str(logprob))
        again = dump_trace(parse_trace(data))
        for line in again.splitlines():
            json.loads(line, parse_constant=pytest.fail)
        assert parse_trace(again).rounds[0].candidates[0].target_logprob == logprob

    @pytest.mark.parametrize("event", SEED_FIELDS)
    def test_events_carry_the_known_names(self, trace, event):
        lines = [json.loads(line) for line in trace.splitlines()]
        first = next(line for line in lines if line["event"] == event)
        assert set(SEED_FIELDS[event].split()) <= set(first)

    def test_a_failed_run_ends_with_its_error(self, trace):
        data = changed(trace, "done", event="error", finish_reason="error", error="It broke.")
        summary = parse_trace(data).summary
        assert summary.error == "It broke."
        assert json.loads(dump_trace(parse_trace(data)).splitlines()[-1])["event"] == "error"

    def test_fields_of_later_versions_are_passed_over(self, trace):
        data = changed(trace, "verify_result", colour="mauve")
        assert parse_trace(data) == parse_trace(trace)

    def test_a_script_in_a_token_stays_text(self, trace):
        data = changed(trace, "verify_result", token="<script>alert(1)</script>")
        assert "<script>alert(1)</script>" in parse_trace(data).token_texts.values()


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("event", "fields", "complaint"),
        [
            ("header", {"version": 2}, "version 2"),
            ("header", {"format": "elf"}, "not the beginning"),
            ("header", {"prompt_ids": ["a"]}, "prompt_ids must be a whole number"),
            ("header", {"config": {"num_draft_tokens": 99}}, "between 0 and 16"),
            ("header", {"started_at": "noon"}, "UTC"),
            ("header", {"tags": "a"}, "tags must be an array"),
            ("header", {"note": "\0"}, "NUL"),
            ("header", {"note": "\ud800"}, "not valid Unicode"),
            ("verify_result", {"token_id": 1.5}, "token_id must be a whole number"),
            ("verify_result", {"token_id": True}, "token_id must be a whole number"),
            ("verify_result", {"token_id": 2**70}, "token_id must be a whole number"),
            ("verify_result", {"token": 7}, "token must be a text"),
            ("verify_result", {"status": "eaten"}, "status must be one of"),
            ("verify_result", {"status": "pending"}, "tree"),
            ("verify_result", {"parent": 5}, "tree"),
            ("verify_result", {"position": 5}, "tree"),
            ("verify_result", {"round": 5}, "round"),
            ("verify_result", {"top_tokens": [7]}, "top_tokens must be an object"),
            ("verify_result", {"top_tokens": {"a": 1}}, "top_tokens must be an array"),
            ("verify_result", {"token_id": -5}, "token_id cannot be -5"),
            ("verify_result", {"draft_prob": 7}, "draft_prob cannot be 7"),
            ("verify_result", {"target_prob": -0.5}, "target_prob cannot be -0.5"),
            ("verify_result", {"target_prob": "nan"}, "target_prob cannot be nan"),
            ("verify_result", {"acceptance_prob": 1.5}, "acceptance_prob cannot be 1.5"),
            ("verify_result", {"uniform": "inf"}, "uniform cannot be inf"),
            ("verify_result", {"expected_acceptance": -1}, "expected_acceptance cannot be -1"),
            ("verify_result", {"target_logprob": 2}, "target_logprob cannot be 2"),
            ("verify_result", {"draft_entropy": 1e9}, "draft_entropy cannot be 1e+09"),
            ("verify_result", {"target_entropy": -3}, "target_entropy cannot be -3"),
            ("verify_result", {"top_tokens": [dict(TOP, target_prob=7)]}, "target_prob cannot be"),
            ("verify_result", {"top_tokens": [dict(TOP, token_id=-1)]}, "token_id cannot be -1"),
            ("round", {"num_draft_tokens": -5}, "num_draft_tokens cannot be -5"),
            ("round", {"num_draft_tokens": 10**9}, "num_draft_tokens cannot be 1e+09"),
            ("round", {"temperature": -1}, "temperature cannot be -1"),
            ("round", {"temperature": "inf"}, "temperature cannot be inf"),
            ("round", {"top_p": 1.5}, "top_p cannot be 1.5"),
            ("round", {"top_k": -1}, "top_k cannot be -1"),
            ("round", {"draft_s": -4}, "draft_s is no time"),
            ("round", {"round": 1}, "round 0"),
            ("round", {"emitted": []}, "emitted"),
            ("round", {"texts": ["a"] * 99}, "one text"),
            ("round", {"wall_s": "inf"}, "wall_s is no time"),
            ("round", {"draft_s": 1e300}, "draft_s is no time"),
            ("round", {"wall_s": None}, "wall_s must be a number"),
            ("done", {"num_tokens": 10**6}, "num_tokens"),
            ("done", {"finish_reason": "bored"}, "finish_reason must be one of"),
            ("done", {"event": "party"}, "no event"),
            ("done", {"prefill_s": "nan"}, "prefill_s is no time"),
            ("done", {"num_prompt_tokens": -1}, "num_prompt_tokens"),
            ("header", {"baseline": dict(BASELINE, decode_s=0.0)}, "baseline"),
            ("header", {"baseline": dict(BASELINE, decode_s=1e-300)}, "baseline"),
            ("header", {"baseline": dict(BASELINE, blocks=[block([], [])])}, "link's share"),
            ("header", {"baseline": dict(BASELINE, blocks=[block([1.0], [])])}, "link's share"),
            ("header", {"baseline": dict(BASELINE, blocks=[block([1.0], [1.0])])}, "no time in"),
            ("header", {"baseline": dict(BASELINE, blocks=[block(["nan"], [0.0])])}, "no time in"),
            ("header", {"baseline": dict(BASELINE, blocks=[block([1, 1], [0, 0])])}, "add up"),
            ("header", {"baseline": dict(BASELINE, link_s=1.0)}, "baseline"),
            ("header", {"baseline": dict(BASELINE, link_s=-1.0)}, "link_s is no time"),
            ("header", {"baseline": dict(BASELINE, num_tokens=0)}, "baseline"),
            ("header", {"baseline": dict(BASELINE, num_tokens=2**62)}, "baseline"),
        ],
    )
    def test_what_is_wrong_is_named_in_one_sentence(self, trace, event, fields, complaint):
        assert complaint in message(changed(trace, event, **fields))

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"", "empty or cut off"),
            (b"\n", "not JSON"),
            (b"[1]\n", "not an object"),
            (b'{"event": "header"}\n', "not the beginning"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"a":' * 100_000, "nested too deeply"),
            (b"\xff\xfe\xfd", "not JSON"),
            (b"\x89PNG\r\n\x1a\n", "not JSON"),
            (b'{"event": ' + b"9" * 10_000 + b"}", "not JSON"),
            (b'"' + b"x" * (10 * 2**20) + b'"', "longer than"),
        ],
    )
    def test_what_is_no_trace_at_all_is_refused(self, data, complaint):
        assert complaint in message(data)

    def test_a_long_line_inside_a_good_file_is_refused(self, trace):
        head, tail = trace.split(b"\n", 1)
        assert "line 2" in message(head + b"\n" + b" " * (MAX_LINE_BYTES + 1) + b"\n" + tail)

    def test_a_file_cut_anywhere_is_refused(self, trace):
        for cut in range(0, len(trace) - 2, 211):
            message(trace[:cut])
        assert "it is not JSON, or cut off (" in message(trace[: len(trace) // 2])

    def test_lines_after_the_end_are_refused(self, trace):
        assert "after the end" in message(trace + trace)

    def test_a_missing_line_is_noticed(self, trace):
        lines = trace.splitlines(keepends=True)
        for index, line in enumerate(lines):
            if json.loads(line)["event"] not in ("draft_token", "metrics"):
                message(b"".join(lines[:index] + lines[index + 1 :]))

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_spec_steps": 0},
            {"num_accepted_draft_tokens": 999},
            {"acceptance_histogram": [-1, 1]},
            {"accepted_per_pos": [99, 98]},
            {"num_tokens": -5},
        ],
    )
    def test_totals_without_rounds_must_be_possible(self, trace, fields):
        lines = trace.splitlines(keepends=True)
        bare = lines[0] + lines[-1]
        parse_trace(bare)
        message(changed(bare, "done", **fields))

    @given(data=st.data())
    def test_any_damage_ends_in_an_error_or_in_a_sound_run(self, trace, data):
        place = data.draw(st.integers(0, len(trace) - 1))
        junk = data.draw(st.binary(max_size=3) | st.sampled_from([b"null", b"-1", b"{}", b'"']))
        width = data.draw(st.integers(0, 9))
        damaged = trace[:place] + junk + trace[place + width :]
        try:
            run = parse_trace(damaged)
        except TraceError:
            return
        assert parse_trace(dump_trace(run)) == run

    def test_a_missing_file_is_one_clear_error(self, tmp_path):
        with pytest.raises(TraceError, match=r"none\.jsonl cannot be read"):
            read_trace(tmp_path / "none.jsonl")
