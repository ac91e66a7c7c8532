"""The race of the peers, over a tiny target: everybody writes as much, in turn, and is counted."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from benchmarks.peers import table
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.judge import mean_logprob
from benchmarks.peers.race import Heat, Result, race
from specdec.pair import load_model
from specdec.sampling import Distribution, Sampler
from tests.models.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = str(write_tiny_llama(tmp_path_factory.mktemp("tiny")))
    asked = {"target": folder, "backend": "portable"}
    everybody = [
        Contestant("SpeculatoViz", "plain", "ours", asked | {"draft": "none"}),
        Contestant("SpeculatoViz", "layer-skip", "ours", asked | {"draft": "layer-skip"}),
        Contestant("nobody", "plain", "ours", python=None, install="make VENV"),
        Contestant("broken", "plain", "ours", asked | {"target": "/nowhere"}),
    ]
    prompts = [[5, 6, 7, 8], [9, 10, 9, 10]]
    return race(
        everybody, prompts, num_tokens=12, temperatures=(0.0, 0.7), repeats=2, k=3, report=print
    )


def test_everybody_writes_every_prompt_as_often_and_as_much(result):
    counted = {}
    for heat in result.heats:
        assert len(heat.token_ids) == 12
        assert 0 < heat.decoded < 12
        assert heat.decode_s > 0 < heat.first_token_s
        counted[heat.contestant] = counted.get(heat.contestant, 0) + 1
    assert counted == {"SpeculatoViz, plain": 8, "SpeculatoViz, layer-skip": 8}


def test_who_is_missing_is_named_with_the_reason(result):
    assert result.refused["nobody, plain"] == "no Python has it here (make VENV)"
    assert "There is no model '/nowhere'" in result.refused["broken, plain"]
    text = table.markdown(table.rows(result, "SpeculatoViz, plain", "nobody, plain"), result)
    assert "- Not here: nobody, plain: no Python has it here (make VENV)" in text


def test_the_table_tells_speeds_calls_and_the_same_tokens(result):
    plain = "SpeculatoViz, plain"
    made = table.rows(result, plain, plain)
    assert [row.temperature for row in made] == [0.0, 0.0, 0.7, 0.7]
    for row in made:
        assert row.low <= row.tokens_per_s <= row.high
        assert row.same_tokens == (1.0 if row.temperature == 0 else None)
        assert row.cost_ratio > 0
        if row.contestant == plain:
            assert row.tokens_per_call == row.against_plain == 1.0
        else:
            assert row.tokens_per_call >= 1.0
    assert table.chart(made).to_dict()["facet"]["row"]["field"] == "panel"


def test_what_the_target_thinks_of_a_text_is_the_mean_of_its_log_probabilities(tmp_path):
    model = load_model(str(write_tiny_llama(tmp_path)), "portable").model
    prompt, token_ids = [5, 6, 7], [8, 3, 3] * 25  # more than one forward takes
    read, logprobs = list(prompt), []
    for token_id in token_ids:
        logits = model.forward(read, model.new_cache())[-1]
        probs = Distribution.from_logits(logits, Sampler(0.7)).probs
        logprobs.append(math.log(probs[token_id]))
        read.append(token_id)
    told = mean_logprob(model, prompt, token_ids, 0.7)
    assert told == pytest.approx(sum(logprobs) / len(token_ids), rel=1e-5)
    drawn = [replace(heat("a", (1, 2), 1.0), temperature=0.7, logprob=told)]
    result = Result(drawn, {}, {}, {})
    assert f"| {told:.2f} |" in table.markdown(table.rows(result, "a", "a"), result)


def heat(name: str, ids: tuple[int, ...], decode_s: float) -> Heat:
    return Heat(name, 0.0, 0, 0, ids, 0.5, len(ids) - 1, decode_s, len(ids), 1.0)


def test_tokens_agree_up_to_the_first_difference_and_speeds_are_told_pairwise():
    heats = [heat("a", (1, 2, 3, 4), 3.0), heat("b", (1, 2, 9, 4), 1.0)]
    (fast, _) = table.rows(Result(heats, {}, {}, {}), "a", "a")
    assert (fast.contestant, fast.same_tokens, fast.against_plain) == ("b", 0.5, 3.0)
    assert fast.cost_ratio is None


def test_a_worker_that_lacks_its_engine_says_so(tmp_path):
    python = tmp_path / "python"  # one without site-packages
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    lacking = Contestant("x", "plain", "llama_cpp", {}, str(python), "pip install x")
    result = race(
        [lacking], [[1]], num_tokens=2, temperatures=(), repeats=1, k=1, report=lambda line: None
    )
    assert "No module named" in result.refused["x, plain"]
    assert result.refused["x, plain"].endswith("(pip install x)")
