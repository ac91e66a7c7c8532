"""A tiny teacher, and one thread to learn from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.models.tiny import write_tiny_llama

if TYPE_CHECKING:
    from training.llama import Llama


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep sums in one order, and small products from waiting for a second core."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Llama:
    from training.llama import Llama  # needs PyTorch, which may be missing

    return Llama.read(folder)
