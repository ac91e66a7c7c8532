"""Which backend runs a model here, why, and what each can do."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specdec.errors import ModelError
from specdec.models import torch_devices, torch_size
from specdec.models.base import LanguageModel
from specdec.models.fetch.progress import Progress
from specdec.models.llama_config import LlamaConfig
from specdec.models.portable import PortableModel
from specdec.settings import is_apple_silicon

AUTO = "auto"
FACTS: Mapping[str, str] = {
    AUTO: "torch where there is an NVIDIA GPU, mlx on Apple silicon, else portable; and torch for "
    "what portable does not open",
    "portable": "Llamas in float32 on the CPU. Exact to the last bit; trees in one pass; attention "
    "weights and hidden states",
    "mlx": "what mlx-lm opens, on Apple silicon (slow on Linux). Exact up to rounding; trees path "
    "by path; neither attention weights nor hidden states",
    "torch": "causal models of transformers, on an NVIDIA or Apple GPU or the CPU. Exact up to "
    "rounding; trees in one pass where the model takes them; attention weights and hidden states",
}
"""What each backend opens and can do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A backend, the device it was told, and why it is the one."""

    backend: str
    device: str
    why: str


def installed_backends() -> list[str]:
    """Return the backends that can be chosen here, "auto" first."""
    has_mlx = importlib.util.find_spec("mlx_lm") is not None
    has_torch = torch_devices.has_torch()
    return [AUTO, "portable", *["mlx"] * has_mlx, *["torch"] * has_torch]


def choose(place: str, folder: Path | None = None) -> Place:
    """Return what `RunConfig.place` stands for on this machine, for the model in `folder`.

    Without a folder the answer is the one for a model that every backend opens.
    """
    backend, _, device = place.partition(":")
    device = device or AUTO
    if backend != AUTO:
        return Place(backend, device, "as chosen")
    if device not in (AUTO, "cpu"):
        return Place("torch", device, f"the backend for {device}, which was asked for")
    if device == AUTO and torch_devices.has_cuda():
        return Place("torch", device, "chosen because there is an NVIDIA GPU")
    if device == AUTO and is_apple_silicon():
        return Place("mlx", device, "chosen because this is Apple silicon")
    if folder is not None and torch_devices.has_torch() and _is_foreign(folder):
        return Place("torch", "cpu", "chosen because portable opens plain Llamas only")
    return Place("portable", "cpu", "chosen because no GPU is used here")


def _is_foreign(folder: Path) -> bool:
    """Say whether the portable backend refuses what a folder describes."""
    try:
        return LlamaConfig.load(folder).head_dim % 4 != 0
    except ModelError:
        return True


def open_model(folder: Path, name: str, place: Place, progress: Progress) -> LanguageModel:
    """Open a folder's weights on a backend; the optional ones are imported here.

    Raises:
        ModelError: the backend is not installed, or does not open the model.
    """
    if place.backend == "torch":
        from specdec.models.torch_model import TorchModel

        return TorchModel.load(folder, name, place.device, progress)
    if place.backend == "mlx":
        from specdec.models.mlx import MlxModel

        return MlxModel.load(folder, name)
    return PortableModel.load(folder, name, progress)


def describe(model: LanguageModel, place: Place) -> str:
    """Say what an opened model runs on, why, and what is not to be had there."""
    trees = "" if model.supports_trees else "; trees are scored path by path"
    return f"{model.backend}, {place.why}{trees}"


def memory_words(place: Place, folder: Path) -> str:
    """Say how much memory a folder's weights will take there, and how much is free.

    Raises:
        ModelError: there is no such device, or the folder cannot be read.
    """
    device = torch_devices.find_device(place.device) if place.backend == "torch" else "cpu"
    return torch_size.memory_words(folder, device)
