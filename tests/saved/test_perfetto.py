"""The time line is valid Trace Event JSON, and its lanes never overlap.

The schema follows the Trace Event Format document (phases X, C and M) as far as it is used.
"""

from __future__ import annotations

import json
from itertools import pairwise

import jsonschema
import pytest
from hypothesis import given, settings

from specdec.saved.exports import EXPORTS
from specdec.saved.perfetto import LANES, perfetto_trace
from tests.made_runs import runs, tiny_run

NUMBER = {"type": "number", "minimum": 0}
COMMON = {"name": {"type": "string"}, "pid": {"type": "integer"}, "tid": {"type": "integer"}}
SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "properties": COMMON
                        | {"ph": {"const": "X"}, "cat": {"type": "string"}}
                        | {"ts": NUMBER, "dur": NUMBER, "args": {"type": "object"}},
                        "required": ["name", "cat", "ph", "ts", "dur", "pid", "tid"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": COMMON
                        | {"ph": {"const": "C"}, "ts": NUMBER}
                        | {
                            "args": {"additionalProperties": {"type": "number"}, "minProperties": 1}
                        },
                        "required": ["name", "ph", "ts", "pid", "args"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": COMMON
                        | {"ph": {"const": "M"}}
                        | {"args": {"required": ["name"]}},
                        "required": ["name", "ph", "pid", "tid", "args"],
                        "additionalProperties": False,
                    },
                ]
            },
        },
    },
}


def slices(trace, lane):
    return [
        (event["ts"], event["ts"] + event["dur"])
        for event in trace["traceEvents"]
        if event["ph"] == "X" and event["tid"] == LANES[lane]
    ]


@settings(max_examples=20)
@given(runs())
def test_every_run_gives_a_valid_trace(run):
    jsonschema.validate(perfetto_trace(run), SCHEMA)


def test_the_exported_bytes_are_strict_json(tmp_path):
    export = next(export for export in EXPORTS if export.name == "perfetto")
    data = export.make(tiny_run(tmp_path))
    jsonschema.validate(json.loads(data, parse_constant=pytest.fail), SCHEMA)


@settings(max_examples=20)
@given(runs())
def test_the_slices_of_a_lane_follow_each_other(run):
    trace = perfetto_trace(run)
    for lane in LANES:
        for (_, end), (start, _) in pairwise(slices(trace, lane)):
            assert start >= end - 1e-3 * max(1.0, abs(end) * 1e-12)


def test_lanes_show_what_was_measured(tmp_path):
    run = tiny_run(tmp_path, num_tokens=40)
    trace = perfetto_trace(run)
    for lane, seconds in (
        ("draft", run.summary.draft_s),
        ("verify", run.summary.verify_s + run.summary.prefill_s),
        ("sample", run.summary.sample_s),
    ):
        shown = sum(end - start for start, end in slices(trace, lane)) / 1e6
        assert shown == pytest.approx(seconds, rel=0.02, abs=1e-6)
    assert max(end for _, end in slices(trace, "sample")) / 1e6 == pytest.approx(
        run.rounds[-1].started_s + run.rounds[-1].wall_s, abs=1e-6
    )
