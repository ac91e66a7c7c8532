"""Every error that SpeculatoViz raises on purpose; the message is a sentence for the user.

SpecdecError
├── SettingsError     a value that cannot be used (also a ValueError)
├── ModelError        weights or a tokenizer that cannot be fetched, opened or run
├── TargetError       a target that cannot verify, before or during a run
├── StoreError        saved runs that cannot be opened, read or written
└── TraceError        a file of a run that cannot be read
"""

from __future__ import annotations


class SpecdecError(Exception):
    """Say in one sentence what is wrong and what to do; shown to the user as it is."""


class SettingsError(SpecdecError, ValueError):
    """A setting is out of its range or does not fit the others."""


class ModelError(SpecdecError):
    """A model cannot be fetched, opened or run."""


class TargetError(SpecdecError):
    """The target cannot verify a draft."""


class StoreError(SpecdecError):
    """Saved runs cannot be opened, read or written."""


class TraceError(SpecdecError):
    """A file is not a run that can be read."""


def unexpected(failure: BaseException) -> str:
    """Return the sentence for an error that nobody raised on purpose."""
    words = " ".join(str(failure).split())[:300]
    named = f"{type(failure).__name__}: {words}" if words else type(failure).__name__
    return f"Something went wrong inside SpeculatoViz ({named})."
