"""What tells one model's weights from another's."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from specdec.models.weight_files import weight_files


@cache
def digest_weights(folder: Path) -> str:
    """Return the SHA-256 over the configuration and weights of a Hugging Face folder."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *weight_files(folder)]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
