"""What tells one model's weights from another's, found out once per file.

Reading half a gigabyte for its SHA-256 takes longer than opening it, so a digest is kept in the
project's cache, together with what the file was like: another size, time of change or place on the
disk, and it is found out anew. A file that changed just now is not kept, for it may change again
within the clock's step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from specdec.errors import SettingsError
from specdec.models.fetch.cache_place import cache_dir
from specdec.models.weight_files import Stored, weight_files

_SETTLED_S = 2.0
"""The coarsest step of a file system's clock in use (FAT's)."""


def digest_weights(folder: Path) -> str:
    """Return the SHA-256 over the configuration and weights of a Hugging Face folder."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *weight_files(folder)]):
        digest.update(bytes.fromhex(digest_file(path)))
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return _digest(path, 0, path.stat().st_size).hex()


def digest_tensor(stored: Stored) -> str:
    """Return what tells a stored tensor from every other: its type, shape and SHA-256."""
    content = _digest(stored.file, stored.start, stored.num_bytes).hex()
    return f"{stored.dtype} {stored.shape} {content}"


def _digest(file: Path, start: int, size: int) -> bytes:
    """Return the SHA-256 over bytes of a file, as it was kept or found out now."""
    facts = file.stat()
    seen = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
    path, part = _kept_in(file), f"{start} {size}"
    kept = _read(path)
    if kept.get("file") == seen and isinstance(found := kept.get(part), str):
        with contextlib.suppress(ValueError):
            return bytes.fromhex(found)
    value = _hash(file, start, size)
    if time.time() - facts.st_mtime > _SETTLED_S:
        others = kept if kept.get("file") == seen else {}
        _write(path, others | {"file": seen, part: value.hex()})
    return value


def _hash(file: Path, start: int, size: int) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(start)
        while size > 0 and (block := stream.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.digest()


def _kept_in(file: Path) -> Path | None:
    """Return where the digests of a file are kept, None where there is no such place."""
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]
    try:
        return cache_dir() / "digests" / f"{name}.json"
    except SettingsError:
        return None


def _read(path: Path | None) -> dict[str, object]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(path: Path | None, kept: dict[str, object]) -> None:
    """Keep digests in one rename, for other processes; where nothing can be written, do without."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(kept, stream)
        os.replace(name, path)
