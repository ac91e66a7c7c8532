"""JSON files of a model as checked values: what reads one names file, field and value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import ModelError

MAX_WHOLE = 2**31 - 1
MAX_REAL = 1e30
"""Beyond these no number of a model lies, and sums of them would overflow."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a JSON object of `file`, each checked as it is read: kernels trust them.

    null means that the value is not given.
    """

    file: Path
    values: Mapping[str, Any]

    def real(self, name: str, default: float | None = None, *, zero: bool = False) -> float:
        """Return a number above 0, or from 0 on."""
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            raise ModelError(f"{self.file} gives {name} as {_shown(value)}, which is no number.")
        if not (0 if zero else 1 / MAX_REAL) <= value <= MAX_REAL:
            lowest = "from 0" if zero else "above 0"
            raise ModelError(
                f"{self.file} gives {name} as {_shown(value)}, which is no number {lowest} to "
                f"{MAX_REAL:g}."
            )
        return float(value)

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number above 0."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(
                f"{self.file} gives {name} as {_shown(value)}, which is no whole number above 0."
            )
        if value > MAX_WHOLE:
            raise ModelError(
                f"{self.file} gives {name} as {_shown(value)}, which is no whole number up to "
                f"{MAX_WHOLE}."
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise ModelError(
                f"{self.file} gives {name} as {_shown(value)}, which is neither true nor false."
            )
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise ModelError(f"{self.file} gives {name} as {_shown(value)}, which is no text.")
        return value

    def _get(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.file} has no {name!r}; it does not describe a Llama.")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; {path.parent} is not a model folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch it again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object; fetch it again.")
    return content


def _shown(value: object) -> str:
    """Return a value as Python writes it, shortened: it came with a file."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return text if len(text) <= 60 else text[:60] + "…"
