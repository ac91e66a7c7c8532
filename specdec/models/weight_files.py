"""Which safetensors files of a folder hold a model's tensors, and the tensors in them.

With an index, each tensor is in the file the index names for it and nowhere else: a stale shard or
another tool's file beside it is not the model. Sizes are read from the headers first, so that
nothing is allocated for what a configuration only claims.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from specdec.errors import ModelError
from specdec.models.json_values import read_json

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The number types that weights are read of; bfloat16 is widened from its bits."""
_OTHERS = {"I64": "<i8", "I32": "<i4", "BOOL": "?"}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `file`, from byte `start` on, as `dtype` of `shape`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * np.dtype(self._kind).itemsize

    @property
    def _kind(self) -> str:
        return (DTYPES | _OTHERS)[self.dtype]

    def read(self) -> NDArray[Any]:
        """Return the tensor in the type it is stored in, bfloat16 exactly widened to float32."""
        values = np.fromfile(self.file, self._kind, self.num_values, offset=self.start)
        if values.size < self.num_values:
            raise self._too_short()
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape)

    def read_into(self, place: NDArray[np.float32]) -> None:
        """Fill a contiguous array of the tensor's shape, without a copy where it is float32."""
        if self.dtype != "F32":
            with np.errstate(over="ignore"):  # of float64: infinity, which is as wrong there
                place[...] = self.read()
            return
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start)
            left = place.data.cast("B")
            while left:
                if not (count := stream.readinto(left)):
                    raise self._too_short()
                left = left[count:]

    def _too_short(self) -> ModelError:
        return ModelError(f"{self.file} became shorter while it was read; fetch it again.")


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the model: those of the index, or what stands there without one.

    Raises:
        ModelError: there are none, one that the index names is missing, or the index is broken.
    """
    if (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(_index(folder).values()))]
    elif (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    else:
        files = sorted(path for path in folder.glob("[!.]*.safetensors") if path.is_file())
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; it is not a model folder.")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{folder} has no {file.name}; fetch the model again.")
    return files


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return where every tensor of the model lies.

    Raises:
        ModelError: a file is damaged or missing, or two of them hold the same tensor.
    """
    chosen = _index(folder) if (folder / INDEX).is_file() else None
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for name, stored in _header(file).items():
            if chosen is not None and chosen.get(name) != file.name:
                continue
            if name in found:
                raise ModelError(
                    f"{found[name].file} and {file.name} both hold {name}; keep the files of one "
                    f"model in the folder, or an {INDEX} that chooses."
                )
            found[name] = stored
    return found


def _index(folder: Path) -> dict[str, str]:
    """Return which file holds each tensor, by the folder's index."""
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise ModelError(f"{folder / INDEX} has no weight_map of tensors; fetch it again.")
    for tensor, name in names.items():
        if not isinstance(name, str) or not name or name != Path(name).name or name[0] == ".":
            raise ModelError(
                f"{folder / INDEX} names {name!r} as the file of {tensor}, which is no file of "
                "the folder."
            )
    return dict(names)


def _header(file: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file, whose header the library has found sound."""
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({error}); delete it and fetch it again.") from None
    return {
        name: Stored(
            file, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
