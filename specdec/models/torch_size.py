"""How much memory a model folder takes, read from the headers of its files before it is opened."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from specdec.errors import ModelError
from specdec.models.llama import read_json
from specdec.models.torch_devices import device_title, free_bytes, free_ram, in_gigabytes

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
_FLOATS = ("F64", "F32", "F16", "BF16")
_WORKING_BYTES = 200_000_000
"""What a run takes beside the weights: keys and values, activations, PyTorch itself."""


@dataclass(frozen=True, slots=True)
class WeightsSize:
    """Bytes of all weights: as the files have them, and with every float in float32."""

    stored: int
    in_float32: int

    def on(self, device: str) -> int:
        """Return the bytes they take on a device: float32 on the CPU, else as they are stored."""
        return self.in_float32 if device == "cpu" else self.stored


def measure(folder: Path) -> WeightsSize:
    """Read the shapes and types of a folder's tensors.

    Raises:
        ModelError: it has no safetensors files, or their headers cannot be read.
    """
    stored = in_float32 = 0
    for file in weight_files(folder):
        for entry in _header(file).values():
            count = prod(entry["shape"])
            item = _ITEM_BYTES.get(entry["dtype"], 1)
            stored += count * item
            in_float32 += count * (4 if entry["dtype"] in _FLOATS else item)
    return WeightsSize(stored, in_float32)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights are read from: those of the index, or the single one."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index} names no files; fetch the model again.")
    return [folder / Path(str(name)).name for name in sorted(set(names.values()))]


def _header(file: Path) -> Mapping[str, Any]:
    """Return the entries of a safetensors file: eight bytes of length, then JSON."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        _ = [prod(entry["shape"]) + len(entry["dtype"]) for entry in header.values()]
    except FileNotFoundError:
        raise ModelError(
            f"{file.parent} has no {file.name}; the torch backend opens safetensors files only, "
            "no pickles: convert the weights or choose another model."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ModelError(f"{file} is damaged ({error}); fetch it again.") from None
    return header


def memory_words(folder: Path, device: str) -> str:
    """Say how much memory the weights take on a device, and how much is free there."""
    needed, free = measure(folder).on(device), free_bytes(device)
    room = "" if free is None else f", {in_gigabytes(free)} free"
    return f"{in_gigabytes(needed)} of weights on {device_title(device)}{room}"


def require_memory(folder: Path, name: str, device: str) -> int:
    """Return the bytes that the weights will take on `device`.

    On their way to a GPU they pass through the main memory, as they are stored.

    Raises:
        ModelError: there is not enough of one or the other.
    """
    size = measure(folder)
    _require(name, size.on(device), device_title(device), free_bytes(device))
    if device != "cpu":
        _require(name, size.stored, "the CPU, through which they pass", free_ram())
    return size.on(device)


def _require(name: str, weights: int, place: str, free: int | None) -> None:
    needed = weights + _WORKING_BYTES
    if free is not None and needed > free:
        raise ModelError(
            f"{name} needs {in_gigabytes(needed)} of memory on {place}, and "
            f"{in_gigabytes(free)} are free: end other programs, or choose a smaller model or "
            "another device."
        )
