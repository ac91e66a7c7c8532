"""Files are written whole or not at all, and a place is tried before it is needed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from specdec.errors import SettingsError, StoreError
from specdec.saved.files import check_place, write_whole


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse to write more into any file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_place_that_is_good_stays_as_it_is(tmp_path: Path) -> None:
    check_place(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_bytes(b"kept")
    check_place(tmp_path / "old")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"kept"]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("", "is no file"),
        ("missing/run", "no folder"),
        ("file/run", "no folder"),
        ("pipe", "is no file"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_a_place_that_is_none_is_said_before(place: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SettingsError, match=why):
        check_place(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_unfinished_is_left_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"before")
    with largest_file(1000), pytest.raises(StoreError, match="cannot be written: File too large"):
        write_whole(path, bytes(5000))
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        write_whole(tmp_path / "gone" / "run", b"after")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]


def test_links_and_permissions_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "run", tmp_path / "link"
    write_whole(path, b"first")
    made = tmp_path / "made"
    made.touch()
    assert path.stat().st_mode == made.stat().st_mode
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, b"second")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o640)
    assert link.is_symlink()
