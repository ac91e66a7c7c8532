"""Where the compiled kernels are kept, or that there are none: every machine decodes somehow.

Numba keeps what it compiles beside the source or in the user's cache. Where neither can be written
(another user's checkout, a container without a home), the project's own cache serves, then a folder
that lives as long as this process, and then NumPy decodes, slower, with the same answers.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specdec.errors import ModelError, SettingsError
from specdec.models.fetch.cache_place import cache_dir


@functools.cache
def numba_kernels() -> Any:
    """Import the kernels, which takes some seconds where they were never compiled.

    None where there is no Numba for this Python or processor, or no place to compile to.

    Raises:
        ModelError: Numba is here and cannot work as its settings stand.
    """
    try:
        return _import()
    except ImportError:
        return None
    except RuntimeError as error:
        if "cache" not in str(error):
            raise _refusal(error) from error
    except Exception as error:  # a value of NUMBA_… that it does not take
        raise _refusal(error) from error
    from numba.core import config

    for place in _places():
        config.CACHE_DIR = str(place)
        try:
            return _import()
        except (RuntimeError, OSError):
            continue
    return None


def _import() -> Any:
    from specdec.models import kernels

    return kernels


def _refusal(error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:300]
    return ModelError(
        f"Numba cannot compile or start its threads ({reason}); unset NUMBA_THREADING_LAYER and "
        "NUMBA_NUM_THREADS, or uninstall numba to decode with NumPy, slower."
    )


def _places() -> Iterator[Path]:
    """Yield folders that can be written, the lasting one first."""
    try:
        lasting = cache_dir() / "kernels"
        lasting.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=lasting):
            pass
        if not hasattr(os, "getuid") or lasting.stat().st_uid == os.getuid():
            yield lasting
    except (OSError, SettingsError):
        pass
    try:  # of this process only: whoever can write to a shared one could have us run their code
        own = tempfile.mkdtemp(prefix="specdec-")
    except OSError:
        return
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    yield Path(own)
