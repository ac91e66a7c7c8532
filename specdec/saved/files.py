"""Files written whole or not at all, at a place that is tried before the long work begins."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from specdec.errors import SettingsError, StoreError


def check_place(path: Path) -> None:
    """Say before a run whether a file can be written there after it; nothing is left behind.

    Raises:
        SettingsError: there is no such folder, it takes no files, or something else than a file
            stands there.
    """
    path = _followed(path)
    if not path.parent.is_dir():
        raise SettingsError(f"There is no folder {path.parent} to save {path.name} in.")
    try:
        if path.exists() and not path.is_file():
            raise SettingsError(f"{path} is no file: name one, in a folder that exists.")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_prefix(path)) as tried:
            tried.write(b"\n")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written ({error.strerror}): name another place to save to."
        ) from None
    if path.exists() and not os.access(path, os.W_OK):
        raise SettingsError(f"{path} is write-protected: name another file to save to.")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; what was there before stays until the new one is complete.

    Raises:
        StoreError: it cannot be written; nothing unfinished is left.
    """
    path = _followed(path)
    unfinished = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=_prefix(path), delete=False
        ) as file:
            unfinished = file.name
            file.write(data)
        os.chmod(unfinished, _mode(path))
        os.replace(unfinished, path)
    except BaseException as failure:
        if unfinished is not None:
            with suppress(OSError):
                os.unlink(unfinished)
        if isinstance(failure, OSError):
            raise StoreError(f"{path} cannot be written: {failure.strerror}.") from None
        raise


def _followed(path: Path) -> Path:
    """A link is kept, and what it leads to is written."""
    return Path(os.path.realpath(path))


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}."


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those any new file gets."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
