"""Where this project keeps what it downloads, makes and finds out once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from specdec.errors import SettingsError
from specdec.settings import variables


def cache_dir() -> Path:
    """Return where this project keeps what it downloads and makes: `SPECDEC_CACHE` if set.

    Who has no home gets a folder among the temporary ones.

    Raises:
        SettingsError: `.env` cannot be read, or `SPECDEC_CACHE` names a home that is not there.
    """
    chosen = variables().get("SPECDEC_CACHE", "").strip()
    path = Path(os.path.expanduser(chosen or platformdirs.user_cache_dir("specdec")))
    if not path.parts or not path.parts[0].startswith("~"):
        return path
    if chosen:
        raise SettingsError(
            f"SPECDEC_CACHE names {chosen}, and there is no home {path.parts[0]} here; set it to "
            "the whole path of a folder."
        )
    return Path(tempfile.gettempdir()) / f"specdec-{os.getuid()}"
