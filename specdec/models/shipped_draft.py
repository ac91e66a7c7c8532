"""The trained draft as it is shipped: layers in int8, everything else taken from its target.

A shipped draft is a folder with `config.json`, `draft_token_ids.npy` and `layers.safetensors`,
which holds the final norm and all layer tensors: gains as they are, matrices as int8 with one
float16 scale per output row (`<name>.scale`). Embedding and tokenizer are the target's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from specdec.errors import ModelError
from specdec.models.llama import DRAFT_TOKEN_IDS

EMBEDDING = "model.embed_tokens.weight"
LAYERS = "layers.safetensors"
_SCALE = ".scale"
_LARGEST = 127
_OF_THE_DRAFT = ("config.json", DRAFT_TOKEN_IDS)
_OF_THE_TARGET = ("tokenizer.json", "tokenizer_config.json")


def quantise(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
    """Turn matrices [rows, columns] into int8 with float16 scales [rows, 1]; keep vectors."""
    packed: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            packed[name] = tensor
            continue
        largest = np.abs(tensor).max(axis=1, keepdims=True)
        scale = np.maximum(largest / _LARGEST, np.finfo(np.float16).tiny).astype(np.float16)
        steps = np.rint(tensor / scale.astype(np.float32))
        packed[name] = np.clip(steps, -_LARGEST, _LARGEST).astype(np.int8)
        packed[name + _SCALE] = scale
    return packed


def dequantise(packed: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    """Undo `quantise` up to rounding."""
    tensors = {}
    for name, tensor in packed.items():
        if not name.endswith(_SCALE):
            scale = packed.get(name + _SCALE, np.float16(1))
            tensors[name] = tensor.astype(np.float32) * np.asarray(scale, np.float32)
    return tensors


def save_shipped(folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a draft's tensors, without its embedding, the way they are shipped."""
    save_file(quantise(tensors), folder / LAYERS)


def build_folder(shipped: Path, target: Path, folder: Path) -> None:
    """Make a Hugging Face folder of a shipped draft and the folder of its target.

    Raises:
        ModelError: the shipped weights or the target's cannot be read.
    """
    try:
        tensors = dequantise(load_file(shipped / LAYERS))
        tensors[EMBEDDING] = _read_embedding(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The draft cannot be made of {shipped} and {target} ({error}); install the app again."
        ) from error
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in _OF_THE_DRAFT:
        shutil.copyfile(shipped / name, folder / name)
    for name in _OF_THE_TARGET:
        shutil.copyfile(target / name, folder / name)


def _read_embedding(target: Path) -> NDArray[np.float32]:
    with safe_open(target / "model.safetensors", framework="numpy") as weights:
        embedding: NDArray[np.float32] = weights.get_tensor(EMBEDDING).astype(np.float32)
    return embedding
