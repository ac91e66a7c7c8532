"""Real model servers, started by the test that needs one and stopped with it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from safetensors.numpy import load_file, save_file

from specdec.drafters.base import Drafter
from specdec.drafters.translated import make_model_drafter
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.remote import RemoteTarget
from tests.models.tiny import write_tiny_llama

SPEAKABLE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?"
"""Characters that the tiny tokenizer never merges: what they spell is cut in one way only."""


@contextmanager
def running(
    command: Sequence[str], health: str, log: Path, *, start_s: float = 120.0, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; it is ready when `health` answers 200."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | variables
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline_s = time.monotonic() + start_s
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
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


def drafter_for(remote: RemoteTarget, model: PortableModel) -> Drafter:
    """Return what drafts with `model` for a server that runs a model of the same tokenizer.

    The server's vocabulary is longer: its head may have rows that no tokenizer names.
    """
    tokenizer = remote.tokenizer
    return make_model_drafter(model, tokenizer, tokenizer, remote.vocab_size)
