"""A low-rank correction of layers that are shipped already (LoRA, Hu et al. 2021).

The int8 layers stand in git once and for all; what later training adds is learnt, and shipped, as
two thin factors per matrix.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from specdec.models.fetch.shipped_draft import LAYERS, dequantise
from training.llama import Llama


class LowRank(nn.Module):
    """Add `up @ down`, (out, rank) by (rank, in), to a weight; zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Correct the weight."""
        return weight + self.up @ self.down


def read_layers(shipped: Path, teacher: Llama) -> Llama:
    """Load the layers of a shipped draft, without any correction, over the teacher's embedding."""
    tensors = {
        name.removeprefix("model."): torch.from_numpy(tensor)
        for name, tensor in dequantise(load_file(shipped / LAYERS)).items()
    }
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    draft = Llama(replace(teacher.shape, layers=layers), teacher.embedding)
    draft.load_state_dict(tensors)
    return draft


def adapt(draft: Llama, rank: int) -> Llama:
    """Freeze `draft` and give each of its matrices a correction to learn."""
    draft.requires_grad_(False)
    for module in list(draft.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
    return draft


def corrections(draft: Llama) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (up, down) of every corrected matrix by its name in Hugging Face folders."""
    return {
        f"model.{name.removesuffix('.parametrizations.weight.0')}.weight": (module.up, module.down)
        for name, module in draft.named_modules()
        if isinstance(module, LowRank)
    }
