"""How much memory a model folder takes, read from the headers of its files before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from specdec.errors import ModelError
from specdec.models.torch_devices import device_title, free_bytes, free_ram, in_gigabytes
from specdec.models.weight_files import DTYPES, stored_tensors

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
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
    """Add up a folder's tensors, by the headers of its files.

    Raises:
        ModelError: it has no safetensors files, or they are damaged.
    """
    stored = in_float32 = 0
    for tensor in stored_tensors(folder).values():
        count, item = prod(tensor.shape), _ITEM_BYTES.get(tensor.dtype, 1)
        stored += count * item
        in_float32 += count * (4 if tensor.dtype in DTYPES else item)
    return WeightsSize(stored, in_float32)


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
