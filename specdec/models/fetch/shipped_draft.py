"""The trained draft as it is shipped: layers in int8, everything else taken from its target.

A shipped draft is a folder with `config.json`, `draft_token_ids.npy` and `layers.safetensors`,
which holds the final norm and all layer tensors: gains as they are, matrices as int8 with one
float16 scale per output row (`<name>.scale`). What was learnt after these were final stands in
`correction.safetensors`, if there is one: two thin float16 factors per matrix, `<name>.up` [rows,
rank] and `<name>.down` [rank, columns], whose product is added (LoRA, Hu et al. 2021). Embedding
and tokenizer are the target's own.

A shipped feature head is such a folder, too: its tensors are named as `models/eagle3.py` says, and
the rows of its output are those of the target's embedding that `draft_token_ids.npy` names.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from specdec.errors import ModelError
from specdec.models.llama import DRAFT_TOKEN_IDS, EMBEDDING, read_embedding

LAYERS = "layers.safetensors"
CORRECTION = "correction.safetensors"
_SCALE, _UP, _DOWN = ".scale", ".up", ".down"
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
    (folder / CORRECTION).unlink(missing_ok=True)  # belonged to other layers
    save_file(quantise(tensors), folder / LAYERS)


def save_correction(
    folder: Path, factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> None:
    """Write (up, down) by the names of the matrices they correct, the way they are shipped."""
    ends = {
        name + end: factor.astype(np.float16)
        for name, pair in factors.items()
        for end, factor in zip((_UP, _DOWN), pair, strict=True)
    }
    save_file(ends, folder / CORRECTION)


def read_shipped(shipped: Path) -> dict[str, NDArray[np.float32]]:
    """Return a draft's tensors, without its embedding, in full precision and corrected."""
    tensors = dequantise(load_file(shipped / LAYERS))
    if (shipped / CORRECTION).exists():
        factors = load_file(shipped / CORRECTION)
        for name in [name for name in tensors if name + _UP in factors]:
            up, down = (factors[name + end].astype(np.float32) for end in (_UP, _DOWN))
            tensors[name] += up @ down
    return tensors


def build_folder(shipped: Path, target: Path, folder: Path) -> None:
    """Make a Hugging Face folder of a shipped draft and the folder of its target.

    Raises:
        ModelError: the shipped weights or the target's cannot be read.
    """
    try:
        tensors = read_shipped(shipped)
        tensors[EMBEDDING] = read_embedding(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The draft cannot be made of {shipped} and {target} ({error}); install the app again."
        ) from error
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in _OF_THE_DRAFT:
        shutil.copyfile(shipped / name, folder / name)
    for name in _OF_THE_TARGET:
        shutil.copyfile(target / name, folder / name)


def build_head_folder(shipped: Path, target: Path, folder: Path) -> None:
    """Make the folder of a feature head, as other engines open it, of what is shipped.

    Raises:
        ModelError: the shipped weights or the target's cannot be read.
    """
    try:
        tensors: dict[str, NDArray[np.generic]] = dict(read_shipped(shipped))
        embedding = read_embedding(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The head cannot be made of {shipped} and {target} ({error}); install the app again."
        ) from error
    token_ids = np.load(shipped / DRAFT_TOKEN_IDS).astype(np.int64)
    tensors["lm_head.weight"] = embedding[token_ids]
    tensors["d2t"] = token_ids - np.arange(len(token_ids))
    tensors["t2d"] = np.isin(np.arange(len(embedding)), token_ids)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(shipped / "config.json", folder / "config.json")
