"""mlx_lm.server with a real small model, started, driven and, where it dies, survived.

It takes text only and scores no prompts, so drafts are verified by `continue`; its answers follow
the first of the draft's tokens that its own likeliest continuation has too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.models.fetch.hub import resolve
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.records import FinishReason, RoundResult, RunSummary
from specdec.sampling import Distribution, Sampler
from specdec.targets.base import Target
from specdec.targets.local import LocalTarget
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.remote import RemoteTarget, connect
from tests.real.servers import drafter_for, running, write_speakable_llama
from tests.targets.server.raw_server import free_port

pytestmark = [pytest.mark.server, pytest.mark.mlx]


def serve(folder: Path, log: Path, *options: str):
    """Return the endpoint and the context manager of a server for the model in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    endpoint = Endpoint("mlx", url, "default_model", read_timeout_s=60)
    return endpoint, running(command, f"{url}/health", log)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speakable_llama(tmp_path_factory.mktemp("speakable"))


@pytest.fixture(scope="module")
def model(folder: Path) -> PortableModel:
    return PortableModel.load(folder, "tiny")


@pytest.fixture(scope="module")
def remote(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteTarget]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    endpoint, server = serve(folder, log, "--prompt-cache-size", "0")
    with server:
        yield connect(endpoint, Tokenizer.load(folder))


def run(target: Target, drafter, prompt, *, k=3, num_tokens=16):
    """Return the rounds and the summary of a greedy run."""
    settings = RoundSettings(drafter, k, Sampler(0.0))
    events = list(generate(prompt, target, settings, max_tokens=num_tokens))
    assert isinstance(events[-1], RunSummary)
    return [event for event in events if isinstance(event, RoundResult)], events[-1]


def emitted(rounds) -> list[int]:
    return [token for result in rounds for token in result.emitted]


def test_the_probe_knows_the_server_and_what_it_is_exact_for(remote):
    can = remote.capabilities
    assert (can.server, can.protocol, can.takes_ids) == ("mlx_lm.server", "continue", False)
    assert (can.names_ids, can.top_logprobs) == (True, 11)
    assert remote.exactness_for(Sampler(0.0)).kind == "approximate"


@pytest.mark.parametrize("text", ["HELLO", "A1;", "<b>?"])
def test_a_greedy_run_writes_what_the_same_model_writes_here(remote, model, text):
    prompt = remote.tokenizer.apply_chat_template([{"role": "user", "content": text}])
    here, _ = run(LocalTarget(model), ModelDrafter(model.without_middle_layers()), prompt)
    there, summary = run(remote, drafter_for(remote, model.without_middle_layers()), prompt)
    assert summary.error is None
    assert emitted(there) == emitted(here)


def test_a_draft_of_the_target_itself_is_accepted_whole(remote, model):
    prompt = remote.tokenizer.encode("HELLO")
    rounds, summary = run(remote, drafter_for(remote, model), prompt)
    assert summary.draft_acceptance_rate == 1.0
    assert len(rounds) == 4  # 16 tokens, four per call


def test_its_probabilities_are_those_of_the_local_model(remote, model):
    prompt = remote.tokenizer.encode("HELLO")
    drafted, _ = run(LocalTarget(model), NoDrafter(), prompt, k=0, num_tokens=4)
    draft = Draft.chain(emitted(drafted))
    sampler = Sampler(0.8, top_k=11)
    there = remote.start(prompt).score(prompt, draft).logits
    here = LocalTarget(model).start(prompt).score(prompt, draft).logits
    assert len(there) == len(here) == 5
    for left, right in zip(there, here, strict=True):
        pair = [Distribution.from_logits(row, sampler).probs for row in (left, right)]
        np.testing.assert_allclose(pair[0][: model.vocab_size], pair[1], atol=1e-3)
        assert not pair[0][model.vocab_size :].any()


def test_with_its_prompt_cache_it_dies_and_the_run_says_so(folder, tmp_path):
    """Trap M2: a prompt that ends in the token just written, which is every second round."""
    endpoint, server = serve(folder, tmp_path / "server.log")
    with server:
        target = connect(endpoint, Tokenizer.load(folder))
        rounds, summary = run(target, NoDrafter(), target.tokenizer.encode("HELLO"), k=0)
    assert summary.finish_reason is FinishReason.ERROR
    assert "--prompt-cache-size 0" in (summary.error or "")
    assert emitted(rounds)
    assert summary.num_tokens == len(emitted(rounds))


@pytest.mark.weights
def test_a_language_model_writes_the_same_sentence_here_and_there(tmp_path):
    folder = resolve("smollm2-135m")
    tokenizer, model = Tokenizer.load(folder), PortableModel.load(folder, "smollm2")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}]
    )
    here, _ = run(LocalTarget(model), NoDrafter(), prompt, k=0, num_tokens=8)
    endpoint, server = serve(folder, tmp_path / "server.log", "--prompt-cache-size", "0")
    with server:
        target = connect(endpoint, tokenizer)
        there, summary = run(target, drafter_for(target, model), prompt, num_tokens=8)
    assert summary.error is None
    assert summary.draft_acceptance_rate == 1.0
    assert emitted(there) == emitted(here)
    assert "Paris" in tokenizer.decode(emitted(there))
