"""From a model's name to a Hugging Face folder on this machine.

A name is one of `KNOWN_MODELS`, the id of a repository on the Hugging Face hub, a local folder, or
a local GGUF file. Known models and GGUF files become folders in the project's own cache; a
repository stays in the hub's cache, which other tools share.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from specdec.errors import ModelError, SettingsError
from specdec.models.eagle3 import is_feature_head
from specdec.models.fetch import download
from specdec.models.fetch.cache_place import cache_dir
from specdec.models.fetch.folder_cache import find_problem, make_folder, read_manifest
from specdec.models.fetch.known import KNOWN_MODELS, KnownModel, ShippedDraft, ShippedHead
from specdec.models.fetch.progress import Progress, no_progress
from specdec.models.fetch.room import within_limit
from specdec.models.weight_files import INDEX, WEIGHTS, weight_files

__all__ = [
    "KNOWN_MODELS",
    "KnownModel",
    "ModelInfo",
    "Progress",
    "ShippedDraft",
    "ShippedHead",
    "cache_dir",
    "is_present",
    "list_models",
    "resolve",
]

_CONVERTER = 1  # raised when folders made by an older version must be made again
_GGUF_CONVERTER = 2  # likewise, of files that are no known model
_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of `python -m specdec models`.

    Attributes:
        name: What `resolve` takes.
        description: One line.
        licence: SPDX name, or None where unknown.
        present: Whether it opens without a download.
        size_bytes: On this disk, or of the download where it is not present.
        path: The folder, where it is present.
    """

    name: str
    description: str
    licence: str | None
    present: bool
    size_bytes: int
    path: Path | None


def is_present(name: str) -> bool:
    """Say whether `resolve(name)` returns at once, without a download or a conversion."""
    if name in KNOWN_MODELS:
        model = KNOWN_MODELS[name]
        return find_problem(_known_folder(model), _known_identity(model)) is None
    path = Path(os.path.expanduser(name))
    if _is_gguf(path):
        return path.is_file() and find_problem(_gguf_folder(path), _gguf_identity(path)) is None
    if name and path.is_dir():
        return _missing_part(path) is None
    return bool(_REPO_ID.fullmatch(name)) and _snapshot(name) is not None


def resolve(name: str, *, progress: Progress | None = None) -> Path:
    """Return the Hugging Face folder of a model, fetched and converted first where needed."""
    report = progress or no_progress
    if name in KNOWN_MODELS:
        return _make_known(KNOWN_MODELS[name], report)
    path = Path(os.path.expanduser(name))
    if _is_gguf(path):
        return _make_from_gguf(path, report)
    if name and path.is_dir():
        if part := _missing_part(path):
            raise ModelError(f"{path} is not a Hugging Face folder that opens here: {part}.")
        return path
    if _REPO_ID.fullmatch(name):
        return _snapshot(name) or _fetch_snapshot(name, report)
    wrong = f"There is no model {name!r}" if name.strip() else "The name of a model is missing"
    raise SettingsError(
        f"{wrong}; choose {', '.join(KNOWN_MODELS)}, a Hugging Face id such "
        "as organisation/name, a folder, or a .gguf file."
    )


def list_models() -> list[ModelInfo]:
    """Return the known models, then what else this machine has."""
    return [*map(_known_info, KNOWN_MODELS.values()), *_converted_infos(), *_snapshot_infos()]


def _models_dir() -> Path:
    return cache_dir() / "models"


def _limited(progress: Progress, name: str) -> Progress:
    """Have the work stop where the limit for saved models, the hub's among them, is reached."""

    def caches() -> tuple[Path, Path]:
        from huggingface_hub import constants

        return _models_dir(), Path(constants.HF_HUB_CACHE)

    return within_limit(progress, name, caches)


# Known models


def _known_folder(model: KnownModel | ShippedDraft) -> Path:
    return _models_dir() / model.name


def _known_identity(model: KnownModel | ShippedDraft) -> str:
    return f"converter {_CONVERTER}, {model.identity}"


def _make_known(model: KnownModel | ShippedDraft, progress: Progress) -> Path:
    progress = _limited(progress, model.name)
    return make_folder(
        _known_folder(model),
        partial(model.build, resolve, progress),
        name=model.name,
        identity=_known_identity(model),
        licence=model.licence,
        progress=progress,
    )


def _known_info(model: KnownModel | ShippedDraft) -> ModelInfo:
    folder = _known_folder(model)
    present = is_present(model.name)
    return ModelInfo(
        model.name,
        model.description,
        model.licence,
        present,
        _folder_bytes(folder) if present else model.size_bytes,
        folder if present else None,
    )


# GGUF files


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def _gguf_folder(path: Path) -> Path:
    """Return the folder of a GGUF file: one for each place, made again when the file changes."""
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return _models_dir() / f"{path.stem}-{digest[:8]}"


def _gguf_identity(path: Path) -> str:
    facts = path.stat()
    return f"converter {_GGUF_CONVERTER}, {facts.st_size} bytes, changed at {facts.st_mtime_ns} ns"


def _make_from_gguf(path: Path, progress: Progress) -> Path:
    if not path.is_file():
        raise SettingsError(f"There is no file {path}; give the path of an existing GGUF file.")

    progress = _limited(progress, path.name)

    def build(folder: Path, scraps: Path) -> str:
        from specdec.models.fetch.gguf_folder import convert_gguf  # is loaded for who needs it

        convert_gguf(path, folder, progress=progress)
        return str(path.resolve())

    return make_folder(
        _gguf_folder(path),
        build,
        name=str(path.resolve()),
        identity=_gguf_identity(path),
        licence=None,
        progress=progress,
    )


def _converted_infos() -> Iterator[ModelInfo]:
    """Yield the folders that were made from GGUF files, by the file where it still exists."""
    for folder in sorted(_models_dir().glob("[!.]*")):
        manifest = read_manifest(folder)
        if manifest is None or manifest.name in KNOWN_MODELS:
            continue
        if find_problem(folder, manifest.identity) is None:
            name = manifest.name if is_present(manifest.name) else str(folder)
            size = _folder_bytes(folder)
            yield ModelInfo(name, "converted from GGUF", manifest.licence, True, size, folder)


# Folders and repositories


def _missing_part(folder: Path) -> str | None:
    """Say what keeps `folder` from being a complete Hugging Face folder."""
    needed = ("config.json",) if is_feature_head(folder) else ("config.json", "tokenizer.json")
    for name in needed:
        if not (folder / name).is_file():
            return f"it has no {name}"
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        return f"it has no {WEIGHTS}"
    try:
        weight_files(folder)
    except ModelError as error:
        return "it " + str(error).removeprefix(f"{folder} ").rstrip(".")
    return None


def _snapshot(repo_id: str) -> Path | None:
    """Return the complete folder of a repository in the hub's cache, without any network."""
    import huggingface_hub  # takes half a second, which only users of the hub should wait
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id, allow_patterns=download.FOLDER_FILES, local_files_only=True
            )
        )
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return folder if _missing_part(folder) is None else None


def _fetch_snapshot(repo_id: str, progress: Progress) -> Path:
    with tempfile.TemporaryDirectory() as scraps:
        limited = _limited(progress, repo_id)
        download.snapshot_download(repo_id, Path(scraps), None, limited)
    folder = _snapshot(repo_id)
    if folder is None:
        raise ModelError(
            f"{repo_id} has no tokenizer.json or lacks weights, so it does not open here; choose "
            "another model."
        )
    return folder


def _snapshot_infos() -> Iterator[ModelInfo]:
    """Yield the language models in the hub's cache that open here."""
    from huggingface_hub import constants

    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        repo_id = repository.name.removeprefix("models--").replace("--", "/", 1)
        folder = _snapshot(repo_id)
        if folder and "ForCausalLM" in (folder / "config.json").read_text(encoding="utf-8"):
            size = _folder_bytes(folder)
            yield ModelInfo(repo_id, "from the Hugging Face hub", None, True, size, folder)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
