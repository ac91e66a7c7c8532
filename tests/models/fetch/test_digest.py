"""Weights are told apart by what is in their files, which is read once per file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specdec.models.fetch import digest
from specdec.models.fetch.digest import digest_weights


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of weights that have been there for a while."""
    return write(tmp_path / "model", b"abc")


def write(folder: Path, weights: bytes, age_s: float = 60) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in (("config.json", b"{}"), ("model.safetensors", weights)):
        (folder / name).write_bytes(data)
        changed = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (changed, changed))
    return folder


def refuse(*args: object) -> bytes:
    raise AssertionError("the file was read")


def test_a_digest_tells_weights_apart(tmp_path):
    assert len({digest_weights(write(tmp_path / w, w.encode())) for w in ("abc", "abd")}) == 2


def test_weights_that_did_not_change_are_not_read_again(folder, monkeypatch):
    first = digest_weights(folder)
    monkeypatch.setattr(digest, "_hash", refuse)
    assert digest_weights(folder) == first


@pytest.mark.parametrize("weights", [b"abd", b"abcd"], ids=["same size", "another size"])
def test_weights_that_changed_are_read_again(folder, weights):
    first = digest_weights(folder)
    assert digest_weights(write(folder, weights, age_s=30)) != first


def test_weights_that_changed_just_now_are_not_kept(folder):
    """Whoever writes twice within a step of the clock would be told the first digest."""
    digest_weights(write(folder, b"new", age_s=0))
    facts = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"NEW")
    os.utime(folder / "model.safetensors", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = digest_weights(folder)
    assert again == digest_weights(write(folder.with_name("other"), b"NEW"))


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"file": 1}', b"\xff"], ids=range(5))
def test_a_damaged_note_is_made_again(folder, tmp_path, damage):
    first = digest_weights(folder)
    notes = list((tmp_path / "cache" / "digests").iterdir())
    assert len(notes) == 2
    for note in notes:
        note.write_bytes(damage)
    assert digest_weights(folder) == first
    assert all(note.read_bytes() != damage for note in notes)


def test_without_a_place_to_keep_them_digests_are_found_out_each_time(folder, monkeypatch):
    kept = digest_weights(folder)
    for place in ("/proc/nowhere", "~nosuchuser/x"):
        monkeypatch.setenv("SPECDEC_CACHE", place)
        assert digest_weights(folder) == kept
