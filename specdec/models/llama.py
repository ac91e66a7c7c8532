"""The weights of a Llama as a Hugging Face folder stores them, checked before they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.fetch.digest import digest_tensor
from specdec.models.llama_config import LlamaConfig
from specdec.models.rotations import Rotations
from specdec.models.weight_files import DTYPES, Stored, stored_tensors

FloatArray = NDArray[np.float32]
DRAFT_TOKEN_IDS = "draft_token_ids.npy"
"""Optional file of a draft's folder: the sorted ids [num_rows] its head is computed for."""

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_PACKED = (".qweight", ".scales", ".qzeros", ".weight_packed", ".weight_scale", ".absmax")
"""Endings of tensors that stand beside weights of a few bits each, or in their place."""
_HARMLESS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All tensors of a Llama in float32, those of like layers stacked for the kernels.

    Attributes:
        embedding: [vocab_size, hidden].
        attention_norm: [num_layers, hidden].
        qkv: queries, keys and values below one another,
            [num_layers, (num_heads + 2 · num_kv_heads) · head_dim, hidden].
        attention_out: [num_layers, hidden, num_heads · head_dim].
        ffn_norm: [num_layers, hidden].
        gate: [num_layers, intermediate, hidden].
        up: [num_layers, intermediate, hidden].
        down: [num_layers, hidden, intermediate].
        final_norm: [hidden].
        head: [num_head_rows, hidden].
        entry: of a feature head, in place of the first layer's `qkv`: it takes the embedding and
            the feature side by side, [(num_heads + 2 · num_kv_heads) · head_dim, 2 · hidden]. No
            rows in a plain Llama.
    """

    embedding: FloatArray
    attention_norm: FloatArray
    qkv: FloatArray
    attention_out: FloatArray
    ffn_norm: FloatArray
    gate: FloatArray
    up: FloatArray
    down: FloatArray
    final_norm: FloatArray
    head: FloatArray
    entry: FloatArray

    @classmethod
    def load(
        cls, folder: Path, config: LlamaConfig, head_ids: NDArray[np.intp] | None
    ) -> LlamaWeights:
        """Read the folder's safetensors files; `head_ids` picks the rows of the head.

        Raises:
            ModelError: a tensor is missing, packed, or has another shape than the configuration
                says; nothing is allocated before that is known.
        """
        stored = stored_tensors(folder)
        _check_tensors(folder, config, stored)
        weights = cls._allocate(config, _shared_embedding(stored[EMBEDDING]))
        for name, place in weights._places(config).items():
            stored[name].read_into(place)
        if config.tied and HEAD in stored:
            _require_tied(folder, weights.embedding, stored[HEAD])
        head = weights.embedding if config.tied else weights.head
        if head_ids is not None:
            head = np.ascontiguousarray(head[head_ids])
        object.__setattr__(weights, "head", head)
        return weights

    @classmethod
    def _allocate(cls, c: LlamaConfig, embedding: FloatArray) -> LlamaWeights:
        def empty(*shape: int) -> FloatArray:
            return np.empty(shape, np.float32)

        queries = c.num_heads * c.head_dim
        rows = queries + 2 * c.num_kv_heads * c.head_dim
        return cls(
            embedding=embedding,
            attention_norm=empty(c.num_layers, c.hidden_size),
            qkv=empty(c.num_layers, rows, c.hidden_size),
            attention_out=empty(c.num_layers, c.hidden_size, queries),
            ffn_norm=empty(c.num_layers, c.hidden_size),
            gate=empty(c.num_layers, c.intermediate_size, c.hidden_size),
            up=empty(c.num_layers, c.intermediate_size, c.hidden_size),
            down=empty(c.num_layers, c.hidden_size, c.intermediate_size),
            final_norm=empty(c.hidden_size),
            head=empty(0 if c.tied else c.vocab_size, c.hidden_size),
            entry=empty(0, 2 * c.hidden_size),
        )

    def _places(self, c: LlamaConfig) -> dict[str, FloatArray]:
        """Return where each tensor of the folder goes, but for the embedding."""
        places = {FINAL_NORM: self.final_norm}
        if not c.tied:
            places[HEAD] = self.head
        keys = c.num_heads * c.head_dim
        values = keys + c.num_kv_heads * c.head_dim
        for layer in range(c.num_layers):
            of_layer = {
                "input_layernorm": self.attention_norm[layer],
                "self_attn.q_proj": self.qkv[layer, :keys],
                "self_attn.k_proj": self.qkv[layer, keys:values],
                "self_attn.v_proj": self.qkv[layer, values:],
                "self_attn.o_proj": self.attention_out[layer],
                "post_attention_layernorm": self.ffn_norm[layer],
                "mlp.gate_proj": self.gate[layer],
                "mlp.up_proj": self.up[layer],
                "mlp.down_proj": self.down[layer],
            }
            for name, place in of_layer.items():
                places[f"model.layers.{layer}.{name}.weight"] = place
        return places


_EMBEDDINGS: WeakValueDictionary[str, FloatArray] = WeakValueDictionary()
"""Those that a model in this process holds, by what is in them."""


def _shared_embedding(stored: Stored) -> FloatArray:
    """Return an embedding as it lies in memory, read where no other model has the very same.

    A draft that was made of its target has the target's: a fifth of the memory of both.
    """
    content = digest_tensor(stored)
    embedding = _EMBEDDINGS.get(content)
    if embedding is None:
        embedding = np.empty(stored.shape, np.float32)
        stored.read_into(embedding)
        _EMBEDDINGS[content] = embedding
    return embedding


@dataclass(frozen=True, slots=True, eq=False)
class Llama:
    """What a forward computes with, shared by every view of a model: numbers, tensors, rotations.

    The rotations hold the positions that a forward has asked them to reach.
    """

    config: LlamaConfig
    weights: LlamaWeights
    rotations: Rotations


def expected_tensors(c: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor, one layer after the other."""
    yield EMBEDDING, (c.vocab_size, c.hidden_size)
    yield FINAL_NORM, (c.hidden_size,)
    if not c.tied:
        yield HEAD, (c.vocab_size, c.hidden_size)
    queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    of_layer = {
        "input_layernorm": (c.hidden_size,),
        "self_attn.q_proj": (queries, c.hidden_size),
        "self_attn.k_proj": (keys, c.hidden_size),
        "self_attn.v_proj": (keys, c.hidden_size),
        "self_attn.o_proj": (c.hidden_size, queries),
        "post_attention_layernorm": (c.hidden_size,),
        "mlp.gate_proj": (c.intermediate_size, c.hidden_size),
        "mlp.up_proj": (c.intermediate_size, c.hidden_size),
        "mlp.down_proj": (c.hidden_size, c.intermediate_size),
    }
    for layer in range(c.num_layers):
        for name, shape in of_layer.items():
            yield f"model.layers.{layer}.{name}.weight", shape


def _check_tensors(folder: Path, config: LlamaConfig, stored: Mapping[str, Stored]) -> None:
    """Hold the tensors of a folder against its configuration, up to the first that is wrong."""
    packed = next((name for name in stored if name.endswith(_PACKED)), None)
    if packed is not None:
        raise ModelError(
            f"{folder} holds packed weights ({packed}), and the portable backend opens no packed "
            "weights; the MLX backend (--backend mlx) opens those it knows, or choose the same "
            "model in bfloat16."
        )
    names = set()
    for name, shape in expected_tensors(config):
        if name not in stored:
            raise ModelError(f"{folder} lacks the tensor {name}; fetch it again.")
        found = stored[name]
        if found.shape != shape:
            raise ModelError(
                f"{name} in {found.file} has shape {list(found.shape)}, and config.json makes it "
                f"{list(shape)}; fetch the folder again."
            )
        names.add(name)
        if found.dtype not in DTYPES:
            raise ModelError(
                f"{name} in {found.file} is stored as {found.dtype}, which the portable backend "
                f"does not read (it reads {', '.join(DTYPES)}); choose the same model in bfloat16."
            )
    for name in stored.keys() - names - {HEAD}:
        _require_harmless(name, config, stored[name])


def _require_harmless(name: str, config: LlamaConfig, stored: Stored) -> None:
    """Refuse a tensor of a layer that is run and has no place in a plain Llama: it would count."""
    part = name.removeprefix("model.layers.").partition(".")[0]
    of_layer = name.startswith("model.layers.") and part.isdecimal() and len(part) < 10
    if name.endswith(_HARMLESS) or (of_layer and int(part) >= config.num_layers):
        return
    if of_layer or name.startswith(("model.", "lm_head.")):
        raise ModelError(
            f"{stored.file} holds {name}, which a plain Llama does not have; the MLX backend "
            "(--backend mlx) opens more kinds."
        )


def _require_tied(folder: Path, embedding: FloatArray, head: Stored) -> None:
    """Refuse a head of its own where the configuration says that it is the embedding."""
    if head.dtype not in DTYPES or not np.array_equal(head.read(), embedding):
        raise ModelError(
            f"{folder / 'config.json'} gives tie_word_embeddings as True, and {head.file.name} "
            f"holds another {HEAD}; set it to false if that is the head."
        )


def read_embedding(folder: Path) -> FloatArray:
    """Return the token embedding [vocab_size, hidden] of a Hugging Face folder in float32.

    Raises:
        ModelError: the folder has none, or it is packed.
    """
    for name, stored in stored_tensors(folder).items():
        if name.endswith("embed_tokens.weight") and stored.dtype in DTYPES:
            return np.ascontiguousarray(stored.read(), np.float32)
    raise ModelError(f"{folder} holds no token embedding that can be read; choose another target.")


def read_head_ids(folder: Path, vocab_size: int) -> NDArray[np.intp] | None:
    """Return the token ids a reduced head is computed for, None for the whole vocabulary."""
    path = folder / DRAFT_TOKEN_IDS
    if not path.exists():
        return None
    try:  # mapped, so that no more is allocated than the file has
        ids = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch it again.") from None
    whole = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu" and ids.size
    if not whole or ids.min() < 0 or ids.max() >= vocab_size or (np.diff(ids) <= 0).any():
        raise ModelError(f"{path} does not hold ascending token ids below {vocab_size}.")
    picked: NDArray[np.intp] = ids.astype(np.intp)
    return picked
