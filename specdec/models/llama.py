"""The Llama architecture as a Hugging Face folder describes it: shapes, weights, rotations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from specdec.errors import ModelError

FloatArray = NDArray[np.float32]
DRAFT_TOKEN_IDS = "draft_token_ids.npy"
"""Optional file of a draft's folder: the sorted ids [num_rows] its head is computed for."""

_SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The known kinds of rotary scaling and the numbers each is given by."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The numbers of a Llama; names as in `config.json`."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_type: str
    rope_scaling: Mapping[str, float]
    tied: bool

    @classmethod
    def load(cls, folder: Path) -> LlamaConfig:
        """Read `config.json`.

        Raises:
            ModelError: it is missing or broken, or the model is no plain Llama.
        """
        raw = read_json(folder / "config.json")
        kind = raw.get("model_type")
        if kind != "llama" or raw.get("attention_bias") or raw.get("mlp_bias"):
            raise ModelError(
                f"The portable backend opens Llama models without biases; {folder.name} is of type "
                f"{kind!r}. The MLX backend (--backend mlx) opens more kinds."
            )
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ModelError(f"{folder / 'config.json'} has a rotary scaling that is no object.")
        values, scaling = (_Numbers(folder / "config.json", numbers) for numbers in (raw, rope))
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in _SCALINGS:
            raise ModelError(f"The portable backend knows no rotary scaling of type {rope_type!r}.")
        heads, hidden_size = values.whole("num_attention_heads"), values.whole("hidden_size")
        config = cls(
            num_layers=values.whole("num_hidden_layers"),
            hidden_size=hidden_size,
            num_heads=heads,
            num_kv_heads=values.whole("num_key_value_heads", heads),
            head_dim=values.whole("head_dim", hidden_size // heads),
            intermediate_size=values.whole("intermediate_size"),
            vocab_size=values.whole("vocab_size"),
            context_length=values.whole("max_position_embeddings"),
            norm_eps=values.real("rms_norm_eps"),
            rope_theta=scaling.real("rope_theta", values.real("rope_theta", 10000.0)),
            rope_type=rope_type,
            rope_scaling={name: scaling.real(name) for name in _SCALINGS[rope_type]},
            tied=bool(raw.get("tie_word_embeddings")),
        )
        if heads % config.num_kv_heads:
            raise ModelError(
                f"{heads} heads of {folder.name} cannot share {config.num_kv_heads} key heads."
            )
        return config

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """Return the rotation speeds [head_dim / 2] in radians per position, scaling included."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        speeds = self.rope_theta**-exponents
        if self.rope_type == "linear":
            scaled: NDArray[np.float64] = speeds / self.rope_scaling["factor"]
            return scaled
        if self.rope_type == "llama3":
            return _llama3_scaling(speeds, self.rope_scaling)
        return speeds

    def rotations(self, length: int) -> tuple[FloatArray, FloatArray]:
        """Return cosines and sines [length, head_dim / 2] of every position's rotation."""
        angles = np.outer(np.arange(length, dtype=np.float64), self.inverse_frequencies())
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _llama3_scaling(
    speeds: NDArray[np.float64], scaling: Mapping[str, float]
) -> NDArray[np.float64]:
    """Slow long wavelengths down by `factor`, keep short ones, blend between (Llama 3.1)."""
    factor, old_length = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = old_length * speeds / (2 * pi)  # over the original context
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    blended: NDArray[np.float64] = speeds * (share + (1.0 - share) / factor)
    return blended


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

    @classmethod
    def load(
        cls, folder: Path, config: LlamaConfig, head_ids: NDArray[np.intp] | None
    ) -> LlamaWeights:
        """Read every `*.safetensors` of the folder; `head_ids` picks the rows of the head.

        Raises:
            ModelError: a tensor is missing or has the wrong shape.
        """
        weights = cls._allocate(config)
        places = weights._places(config)
        seen = set()
        for name, tensor in _tensors(folder):
            if name in places:
                if tensor.shape != places[name].shape:
                    raise ModelError(
                        f"{name} in {folder} has shape {tensor.shape}, not {places[name].shape}."
                    )
                places[name][...] = tensor
                seen.add(name)
        missing = sorted(places.keys() - seen)
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} tensors, {missing[0]} among them; fetch it again."
            )
        head = weights.embedding if config.tied else weights.head
        if head_ids is not None:
            head = np.ascontiguousarray(head[head_ids])
        object.__setattr__(weights, "head", head)
        return weights

    @classmethod
    def _allocate(cls, c: LlamaConfig) -> LlamaWeights:
        def empty(*shape: int) -> FloatArray:
            return np.empty(shape, np.float32)

        queries = c.num_heads * c.head_dim
        rows = queries + 2 * c.num_kv_heads * c.head_dim
        return cls(
            embedding=empty(c.vocab_size, c.hidden_size),
            attention_norm=empty(c.num_layers, c.hidden_size),
            qkv=empty(c.num_layers, rows, c.hidden_size),
            attention_out=empty(c.num_layers, c.hidden_size, queries),
            ffn_norm=empty(c.num_layers, c.hidden_size),
            gate=empty(c.num_layers, c.intermediate_size, c.hidden_size),
            up=empty(c.num_layers, c.intermediate_size, c.hidden_size),
            down=empty(c.num_layers, c.hidden_size, c.intermediate_size),
            final_norm=empty(c.hidden_size),
            head=empty(0 if c.tied else c.vocab_size, c.hidden_size),
        )

    def _places(self, c: LlamaConfig) -> dict[str, FloatArray]:
        """Return where each tensor of the folder goes."""
        places = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.final_norm}
        if not c.tied:
            places["lm_head.weight"] = self.head
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


@dataclass(frozen=True, slots=True, eq=False)
class Llama:
    """What a forward computes with, shared by every view of a model.

    Attributes:
        config: the numbers of the architecture.
        weights: all its tensors.
        cosines: rotations [context_length, head_dim / 2].
        sines: likewise.
    """

    config: LlamaConfig
    weights: LlamaWeights
    cosines: FloatArray
    sines: FloatArray


# Untyped in the library; unlike its NumPy front end it knows bfloat16.
_deserialize: Any = safetensors.deserialize
_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


def _tensors(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield every tensor of the folder's safetensors files; bfloat16 is widened exactly."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; it is not a model folder.")
    for file in files:
        try:
            entries: list[tuple[str, Any]] = _deserialize(file.read_bytes())
        except safetensors.SafetensorError as error:
            raise ModelError(
                f"{file} is damaged ({error}); delete it and fetch it again."
            ) from None
        for name, entry in entries:
            shape, kind, data = entry["shape"], entry["dtype"], entry["data"]
            if kind == "BF16":
                bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
                yield name, bits.view(np.float32).reshape(shape)
            elif kind in _DTYPES:
                yield name, np.frombuffer(data, _DTYPES[kind]).reshape(shape)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers in a JSON object of `file`, each checked as it is read: kernels trust them."""

    file: Path
    values: Mapping[str, Any]

    def real(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
            raise ModelError(f"{self.file} gives {name} as {value!r}, which is no number.")
        return float(value)

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(
                f"{self.file} gives {name} as {value!r}, which is no whole number above 0."
            )
        return value

    def _get(self, name: str, default: float | None) -> Any:
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
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object.")
    return content


def read_head_ids(folder: Path, vocab_size: int) -> NDArray[np.intp] | None:
    """Return the token ids a reduced head is computed for, None for the whole vocabulary."""
    path = folder / DRAFT_TOKEN_IDS
    if not path.exists():
        return None
    ids: NDArray[np.intp] = np.load(path, allow_pickle=False).astype(np.intp)
    if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= vocab_size:
        raise ModelError(f"{path} does not hold token ids below {vocab_size}.")
    return ids
