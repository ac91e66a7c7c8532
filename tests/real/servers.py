"""Real model servers, started by the test that needs one and stopped with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from safetensors.numpy import load_file, save_file

from specdec.drafters.base import Drafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.translated import make_model_drafter
from specdec.engine import RoundSettings, generate
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.records import FinishReason, RoundResult, RunSummary
from specdec.sampling import Sampler
from specdec.targets.server.remote import RemoteTarget
from tests.models.tiny import write_tiny_llama

SPEAKABLE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?"
"""Characters that the tiny tokenizer never merges: what they spell is cut in one way only."""


@contextmanager
def running(
    command: Sequence[str], health: str, log: Path, *, start_s: float = 120.0, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; it is ready when `health` answers 200.

    Whatever it started ends with it, also where it was killed: workers of vLLM would stay.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | variables
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        deadline_s = time.monotonic() + start_s
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def write_speakable_llama(folder: Path) -> Path:
    """Write a tiny random Llama whose likeliest tokens are always `SPEAKABLE`.

    A server that takes only text can then be sent everything the model writes: every other token
    points the same way as a speakable one, only less far.
    """
    write_tiny_llama(folder, tie=False)
    tokenizer = Tokenizer.load(folder)
    speakable = [tokenizer.encode(chr(byte))[0] for byte in SPEAKABLE]
    tensors = load_file(folder / "model.safetensors")
    head = tensors["lm_head.weight"]
    others = np.setdiff1d(np.arange(len(head)), speakable)
    head[others] = 0.8 * head[np.resize(speakable, len(others))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


BLOWS = [
    pytest.param(signal.SIGKILL, 20.0, r"refuses connections|closed the connection", id="killed"),
    pytest.param(signal.SIGSTOP, 2.0, r"did not answer within 2 s", id="frozen"),
]
"""What befalls a server, the seconds it is given to answer, and what is said of it."""


def run(
    target: RemoteTarget,
    prompt: Sequence[int],
    num_tokens: int,
    strike: Callable[[], object] | None = None,
) -> tuple[list[RoundResult], RunSummary, float]:
    """Return rounds, summary, and the seconds from `strike`, after two rounds, to the end."""
    settings = RoundSettings(NgramDrafter(), 3, Sampler(0.0))
    rounds: list[RoundResult] = []
    struck_s = time.perf_counter()
    for event in generate(prompt, target, settings, max_tokens=num_tokens):
        if isinstance(event, RoundResult):
            rounds.append(event)
            if strike is not None and len(rounds) == 2:
                strike()
                struck_s = time.perf_counter()
    assert isinstance(event, RunSummary)
    return rounds, event, time.perf_counter() - struck_s


def lose(
    connected: RemoteTarget,
    prompt: str,
    process: subprocess.Popen[bytes],
    blow: signal.Signals,
    limit_s: float,
    key: str | None = None,
) -> str:
    """Lose the server in mid-run and return what the run said; it must have kept its tokens."""
    connection = connected.connection
    hasty = replace(connection.endpoint, read_timeout_s=limit_s)
    target = RemoteTarget(type(connection)(hasty, key), connected.tokenizer, connected._probed)
    try:
        rounds, summary, waited_s = run(
            target, target.tokenizer.encode(prompt), 60, lambda: process.send_signal(blow)
        )
    finally:
        if blow == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
    assert summary.finish_reason is FinishReason.ERROR
    assert summary.num_tokens == sum(len(result.emitted) for result in rounds) > 0
    assert waited_s < (limit_s if blow == signal.SIGSTOP else 1.5) + 2.0
    return repr(summary)


def drafter_for(remote: RemoteTarget, model: PortableModel) -> Drafter:
    """Return what drafts with `model` for a server that runs a model of the same tokenizer.

    The server's vocabulary is longer: its head may have rows that no tokenizer names.
    """
    tokenizer = remote.tokenizer
    return make_model_drafter(model, tokenizer, tokenizer, remote.vocab_size)
