"""Folders made once and shared by every process: built aside, then published in one rename.

<cache>/<name>/                  a finished folder; specdec.json lists its files and their sizes
<cache>/.<name>.lock             held while one process builds
<cache>/.<name>.XXXX.partial/    what it builds in; one that nobody holds the lock for is dead
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from specdec.errors import ModelError
from specdec.models.fetch.progress import Progress

_MANIFEST = "specdec.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished folder says about itself.

    Attributes:
        name: What `hub.resolve` was asked for.
        identity: Of the source; a folder with another one is out of date.
        source: Where the weights came from, in words.
        licence: SPDX name, or None where the source does not tell.
        files: Sizes in bytes by file name.
    """

    name: str
    identity: str
    source: str
    licence: str | None
    files: dict[str, int]


Build = Callable[[Path, Path], str]
"""Fill an empty folder, with a second one for scraps, and return the source in words."""


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, or None where there is none to read."""
    try:
        return Manifest(**json.loads((folder / _MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def find_problem(folder: Path, identity: str) -> str | None:
    """Say why `folder` must be made (again), or None when it is whole. Reads sizes only."""
    if not folder.is_dir():
        return "it is missing"
    manifest = read_manifest(folder)
    if manifest is None:
        return f"its {_MANIFEST} is missing or damaged"
    if manifest.identity != identity:
        return "its source has changed"
    for name, size in manifest.files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
    return None


def make_folder(
    folder: Path,
    build: Build,
    *,
    name: str,
    identity: str,
    licence: str | None,
    progress: Progress,
) -> Path:
    """Return `folder`, built first unless it is whole; whatever happens, never half of it.

    Args:
        folder: Where the finished folder stands.
        build: Makes its files.
        name: What the user calls it.
        identity: Of the source that it is made from.
        licence: Of the weights.
        progress: Told what happens; may raise to stop.
    """
    if find_problem(folder, identity) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, progress):
            problem = find_problem(folder, identity)  # another process may have been faster
            if problem and folder.exists():
                progress(0, None, f"the saved {name} must be made again: {problem}")
            if problem:
                with _stage(folder) as (fresh, scraps):
                    source = build(fresh, scraps)
                    files = {file.name: file.stat().st_size for file in sorted(fresh.iterdir())}
                    _publish(fresh, folder, Manifest(name, identity, source, licence, files))
    except OSError as error:
        raise ModelError(
            f"The model cannot be written to {folder.parent} ({error.strerror or error}); make "
            "room there or set SPECDEC_CACHE to another folder."
        ) from error
    return folder


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    while True:
        try:
            with lock.acquire(timeout=0.5):
                yield
            return
        except filelock.Timeout:
            progress(0, None, f"waiting for another process that makes {folder.name}")


@contextmanager
def _stage(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give an empty folder and one for scraps, both gone at the end (the lock is held)."""
    prefix, suffix = f".{folder.name}.", ".partial"
    for dead in folder.parent.glob(f"{prefix}*{suffix}"):
        shutil.rmtree(dead)
    stage = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=folder.parent))
    try:
        for part in ("fresh", "scraps"):
            (stage / part).mkdir()
        yield stage / "fresh", stage / "scraps"
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(fresh: Path, folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (fresh / _MANIFEST).write_text(text + "\n", encoding="utf-8")
    if folder.exists():
        folder.rename(fresh.with_name("replaced"))
    fresh.rename(folder)
