"""What the tests of remote targets share: a tokenizer, endpoints, and time that only counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.endpoints import Endpoint
from tests.models.tiny import write_tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return the tokenizer of the tiny models: 300 tokens."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_tiny_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def endpoint(httpserver: HTTPServer) -> Callable[..., Endpoint]:
    """Return a maker of endpoints at the test's server."""

    def make(**changes) -> Endpoint:
        fields = {"name": "lab", "url": httpserver.url_for(""), "model": "toy"} | changes
        return Endpoint(**{"read_timeout_s": 10.0} | fields)

    return make
