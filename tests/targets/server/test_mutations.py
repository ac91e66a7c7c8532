"""Recorded answers with one value changed: an answer or one sentence, never anything else."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.errors import TargetError
from specdec.targets.server.body import LISTING
from specdec.targets.server.continuation import Continuation
from specdec.targets.server.faults import HttpError, error_message
from specdec.targets.server.prefixes import CompletionPrefixes, LlamaServerPrefixes
from specdec.targets.server.reader import Unreadable, Value, parse
from specdec.targets.server.redaction import Redactor
from specdec.targets.server.rows import TokenNames
from specdec.targets.server.score import Echo, PromptLogprobs, SglangGenerate
from specdec.targets.server.servers import recognise
from specdec.targets.server.wire import Dialect, server_seconds
from tests.targets.server.recorded import request_of, response_of

CASES = 300
NIGHTLY_CASES = 10_000
FRANCE = [504, 3575, 282, 4649, 314]


class NoWords:
    vocab_size = 0


DIALECT = Dialect("smollm2", TokenNames(NoWords()), 3)
LLAMA = [
    {
        "index": index,
        "completion_probabilities": [
            {"id": 7, "top_logprobs": [{"id": 7, "logprob": -0.5}, {"id": 8, "logprob": -1.5}]}
        ],
    }
    for index in range(2)
]
SGLANG = {
    "meta_info": {
        "input_token_logprobs": [[None, 504, None], [-1.5, 3575, None]],
        "input_top_logprobs": [None, [[-0.5, 7, None], [-1.5, 3575, None]]],
        "output_top_logprobs": [[[-0.5, 7, None]]],
        "e2e_latency": 0.1,
    }
}


def recorded(name: str) -> Any:
    return response_of(name)["body"]


def listing(body: Value) -> list:
    models = body.get("data")
    recognise({}, models.items() if models else [])
    return []


READERS = {
    "prompt_logprobs": (
        recorded("vllm/04_prompt_logprobs3_as_token_ids"),
        lambda body: PromptLogprobs(DIALECT).read(body, [FRANCE], 1)[0],
    ),
    "echo": (
        recorded("vllm/04_echo_return_token_ids"),
        lambda body: Echo(DIALECT).read(body, [FRANCE], 1)[0],
    ),
    "prompts": (
        recorded("vllm/04_batch_of_prompts_ids"),
        lambda body: CompletionPrefixes(DIALECT).read(body, 3),
    ),
    "continuation": (
        recorded("vllm/08_dup_token_strings_as_ids"),
        lambda body: [row for _, row in Continuation(DIALECT, None).read(body)],
    ),
    "objects": (
        recorded("mlx_lm/01_plain_text_top5"),
        lambda body: [
            row
            for _, row in DIALECT.generated(
                *Dialect("default_model", DIALECT.names, 5).choices(body, 1), greedy=True
            )
        ],
    ),
    "llama-prompts": (LLAMA, lambda body: LlamaServerPrefixes(DIALECT).read(body, 2)),
    "generate": (SGLANG, lambda body: SglangGenerate(DIALECT).read(body, [[504, 3575]], 1)[0]),
    "models": (recorded("vllm/09_models"), listing),
}
ODD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**400), 0.5, -0.5, 1e308),
        *(math.inf, -math.inf, math.nan, "", "x", "token_id:-1", "token_id:" + "9" * 5000),
        *("\ud800", [], [None], [[]], {}, {"": None}, {"id": -1}, [1, 2, 3], [[[[[[]]]]]]),
    ]
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the way to every value within `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, child in inner:
            found += (
                places(child, (*path, key)) if isinstance(child, dict | list) else [(*path, key)]
            )
    return found


@st.composite
def mutated(draw: Any, body: Any) -> Any:
    """Drop, replace, repeat or rename one value."""
    body = copy.deepcopy(body)
    *way, last = draw(st.sampled_from(places(body)))
    holder = body
    for step in way:
        holder = holder[step]
    how = draw(st.sampled_from(["drop", "odd", "twice", "rename"]))
    if how == "drop":
        del holder[last]
    elif how == "twice" and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(holder[last]))
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(["-1", "9" * 20, "x", "index"]))] = holder.pop(last)
    else:
        holder[last] = draw(ODD)
    return body


def check(name: str, body: Any) -> None:
    _, read = READERS[name]
    try:
        value = parse(json.dumps(body).encode(), LISTING, Redactor(None))
    except Unreadable:
        return
    try:
        rows, sentence = read(value), ""
    except TargetError as error:
        rows, sentence = [], str(error)
    assert not sentence or sentence.isprintable()
    assert len(sentence) < 700
    seconds = server_seconds(value)
    assert seconds is None or 0 <= seconds < math.inf
    for row in rows:
        if row is not None and len(row):
            assert row.token_ids.min() >= 0
            assert not np.isnan(row.logprobs).any()
            assert np.exp(row.logprobs).sum() < 1.03


@pytest.mark.parametrize("name", READERS)
@given(st.data())
@settings(max_examples=CASES // len(READERS) + 1)
def test_one_odd_value_is_survived(name, data):
    check(name, data.draw(mutated(READERS[name][0])))


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
@given(st.data())
@settings(max_examples=NIGHTLY_CASES // len(READERS))
def test_one_odd_value_is_survived_at_night(name, data):
    check(name, data.draw(mutated(READERS[name][0])))


@given(st.binary(max_size=300))
def test_no_bytes_break_an_error(content):
    sentence = str(HttpError("lab", 500, error_message(content, Redactor("sk-secret-123"))))
    assert sentence.isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["error", "message", "detail", "msg", "type"]), inner)
        ),
    )
)
def test_no_json_breaks_an_error(said):
    shown = error_message(json.dumps(said).encode(), Redactor("sk-secret-123"))
    assert shown.isprintable()


def test_the_recordings_are_read_as_they_are():
    for name, (body, read) in READERS.items():
        rows = read(Value(body))
        assert name == "models" or [len(row) for row in rows if row is not None]
    assert request_of("vllm/04_batch_of_prompts_ids")["body"]["prompt"]
