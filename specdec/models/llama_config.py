"""What a Llama's `config.json` says: the values that are obeyed, and those with one meaning here.

Names, defaults and formulas are those of transformers: the same folder gives the same tokens there.
Whatever else would change the arithmetic stands in `PLAIN` and is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specdec.errors import ModelError
from specdec.models.json_values import Values, read_json


@dataclass(frozen=True, slots=True)
class Plain:
    """Fields of which the portable backend knows one meaning only.

    Attributes:
        names: of the fields.
        takes: the values with that meaning; null always has it.
        meaning: what the backend does, in words.
        mlx: whether the MLX backend obeys other values.
    """

    names: tuple[str, ...]
    takes: tuple[object, ...]
    meaning: str
    mlx: bool = False

    def refuses(self, value: object) -> bool:
        return value is not None and not any(value == taken for taken in self.takes)


PLAIN = (
    Plain(("hidden_act", "hidden_activation"), ("silu", "swish"), "gates with SiLU only"),
    Plain(("attention_bias", "qkv_bias", "mlp_bias"), (False,), "adds no biases", mlx=True),
    Plain(
        ("partial_rotary_factor", "rotary_pct", "rope_pct"), (1,), "rotates the whole of each head"
    ),
    Plain(("rope_interleaved", "rope_traditional"), (False,), "rotates halves of a head"),
    Plain(("position_embedding_type",), ("rope", "rotary"), "places tokens by rotations"),
    Plain(("alibi", "use_alibi"), (False,), "places tokens by rotations"),
    Plain(("no_rope_layers", "no_rope_layer_interval"), ([], 0), "rotates in every layer"),
    Plain(("attention_chunk_size",), (), "lets every token see all earlier ones"),
    Plain(("use_bidirectional_attention",), (False,), "lets no token see later ones"),
    Plain(("is_causal",), (True,), "lets no token see later ones"),
    Plain(("qk_norm", "use_qk_norm", "qk_layernorm"), (False,), "norms no queries or keys"),
    Plain(("logit_scale", "logits_scaling", "output_multiplier"), (1,), "takes logits as they are"),
    Plain(("final_logit_softcapping", "attn_logit_softcapping", "clip_qkv"), (), "caps no values"),
    Plain(
        ("embedding_multiplier", "embedding_scale", "scale_emb", "scale_embedding"),
        (1, False),
        "takes embeddings as they are",
    ),
    Plain(("residual_multiplier", "residual_scale", "scale_depth"), (1,), "adds layers unscaled"),
    Plain(
        ("attention_multiplier", "attention_scale", "query_pre_attn_scalar"),
        (),
        "scales attention by the root of the head's width",
    ),
    Plain(("parallel_residual", "use_parallel_residual"), (False,), "runs a layer in two steps"),
    Plain(("num_local_experts", "num_experts", "n_routed_experts"), (0, 1), "has no experts"),
    Plain(
        ("quantization", "quantization_config", "compression_config"),
        ({},),
        "opens no packed weights",
        mlx=True,
    ),
)
"""Every value of config.json that changes the arithmetic and is not obeyed, by what is done."""

KINDS: Mapping[str, Mapping[str, int]] = {
    "llama": {},
    "mistral": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "intermediate_size": 14336,
        "sliding_window": 4096,
    },
}
"""The architectures that are plain Llamas, and where their defaults are others than a Llama's."""

ROPE_TYPES = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "dynamic": ("rope_theta",),
    "llama3": (
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "yarn": (
        "rope_theta",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "beta_fast",
        "beta_slow",
        "truncate",
    ),
}
"""The rotary scalings that are obeyed, and the values that are read of each.

"dynamic" stretches only what is longer than `max_position_embeddings`, which no context here is.
"""


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions are rotated; names as in transformers' `rope_parameters`."""

    rope_type: str
    rope_theta: float
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None


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
    rope: Rope
    tied: bool

    @classmethod
    def load(cls, folder: Path, backend: str = "portable") -> LlamaConfig:
        """Read `config.json` for a backend.

        Raises:
            ModelError: it is missing or broken, or the model is no plain Llama.
        """
        file = folder / "config.json"
        return cls.read(file, read_json(file), backend)

    @classmethod
    def read(cls, file: Path, raw: Mapping[str, Any], backend: str = "portable") -> LlamaConfig:
        """Read the object in `file` that describes a Llama, as `load` does."""
        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ModelError(
                f"The portable backend opens plain Llama models; {file} is of type {kind!r:.60}. "
                "The torch and MLX backends (--backend torch, --backend mlx) open more kinds."
            )
        refuse_other_meanings(file, raw, backend)
        values = Values(file, dict(KINDS[kind]) | _given(raw))
        heads, hidden_size = values.whole("num_attention_heads"), values.whole("hidden_size")
        config = cls(
            num_layers=values.whole("num_hidden_layers"),
            hidden_size=hidden_size,
            num_heads=heads,
            num_kv_heads=values.whole("num_key_value_heads", heads),
            head_dim=values.whole("head_dim", hidden_size // heads),
            intermediate_size=values.whole("intermediate_size"),
            vocab_size=values.whole("vocab_size"),
            context_length=values.whole("max_position_embeddings", 2048),
            norm_eps=values.real("rms_norm_eps", 1e-6, zero=True),
            rope=_rope(file, values),
            tied=values.flag("tie_word_embeddings", False),
        )
        if heads % config.num_kv_heads:
            raise ModelError(
                f"{heads} heads of {file.parent.name} cannot share {config.num_kv_heads} key heads."
            )
        _refuse_windows(file, values, config.context_length)
        return config


def refuse_other_meanings(file: Path, raw: Mapping[str, Any], backend: str) -> None:
    """Refuse a value of `PLAIN` fields that `backend` would not obey.

    Raises:
        ModelError: naming the file, the field, its value and the backend that obeys it.
    """
    for rule in PLAIN:
        if backend == "mlx" and rule.mlx:
            continue
        for name in rule.names:
            if rule.refuses(raw.get(name)):
                advice = (
                    "the MLX backend (--backend mlx) opens it"
                    if rule.mlx
                    else "no backend here opens it, so choose another model"
                )
                raise ModelError(
                    f"{file} gives {name} as {_short(raw[name])}, and the {backend} backend "
                    f"{rule.meaning}; {advice}."
                )


def _given(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not null, but for windows, where null says that there is none."""
    return {k: v for k, v in raw.items() if v is not None or k == "sliding_window"}


def _refuse_windows(file: Path, values: Values, context_length: int) -> None:
    """Refuse a model whose tokens do not see all earlier ones."""
    window, kinds = values.values.get("sliding_window"), values.values.get("layer_types") or []
    reason = (
        "which forgets tokens, and a cache that forgets cannot take rejected tokens back; choose a "
        "model with full attention"
    )
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise ModelError(f"{file} gives layer_types as {_short(kinds)}, {reason}.")
    if window is None or kinds or values.values.get("use_sliding_window") is False:
        return
    if values.whole("sliding_window") < context_length:
        raise ModelError(
            f"{file} gives sliding_window as {window}, {reason}, or lower max_position_embeddings "
            "to the window."
        )


def _rope(file: Path, values: Values) -> Rope:
    """Read the rotations in any of their spellings.

    `rope_scaling` comes before `rope_parameters` and "rope_type" before "type", as in transformers.
    """
    raw = values.values
    found = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(found, Mapping):
        raise ModelError(f"{file} has a rotary scaling that is no object.")
    if nested := [name for name, value in found.items() if isinstance(value, Mapping)]:
        raise ModelError(
            f"{file} gives rotations of their own for {nested[0]}, and the portable backend "
            "rotates alike in every layer; no backend here opens it, so choose another model."
        )
    refuse_other_meanings(file, found, "portable")
    scaling = Values(file, found)
    rope_type = found.get("rope_type") or found.get("type") or "default"
    if not isinstance(rope_type, str) or rope_type not in ROPE_TYPES:
        raise ModelError(
            f"The portable backend knows no rotary scaling of type {rope_type!r:.60}, which {file} "
            f"asks for (it knows {', '.join(ROPE_TYPES)})."
        )
    rope = Rope(rope_type, scaling.real("rope_theta", values.real("rope_theta", 10000.0)))
    read = {"default": _plain, "dynamic": _plain, "linear": _linear}
    read |= {"llama3": _llama3, "yarn": _yarn}
    return read[rope_type](rope, scaling, values)


def _plain(rope: Rope, scaling: Values, values: Values) -> Rope:
    return rope


def _linear(rope: Rope, scaling: Values, values: Values) -> Rope:
    return replace(rope, factor=scaling.real("factor"))


def _llama3(rope: Rope, scaling: Values, values: Values) -> Rope:
    low, high = scaling.real("low_freq_factor"), scaling.real("high_freq_factor")
    if low >= high:
        raise ModelError(
            f"{scaling.file} gives low_freq_factor as {low:g}, which is not below "
            f"high_freq_factor, {high:g}."
        )
    return replace(
        rope,
        factor=scaling.real("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_length=_original_length(scaling, values),
    )


def _yarn(rope: Rope, scaling: Values, values: Values) -> Rope:
    original = _original_length(scaling, values)
    context_length = values.whole("max_position_embeddings", 2048)
    if rope.rope_theta <= 1:
        raise ModelError(
            f"{scaling.file} gives rope_theta as {rope.rope_theta:g}, with which YaRN cannot scale."
        )

    def optional(name: str) -> float | None:
        return None if scaling.values.get(name) is None else scaling.real(name, zero=True)

    return replace(
        rope,
        factor=scaling.real("factor", context_length / original),
        original_length=original,
        beta_fast=optional("beta_fast") or 32.0,
        beta_slow=optional("beta_slow") or 1.0,
        truncate=scaling.flag("truncate", True),
        attention_factor=optional("attention_factor"),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
    )


def _original_length(scaling: Values, values: Values) -> int:
    """Return the context before it was stretched; beside the scaling it wins over within."""
    name = "original_max_position_embeddings"
    if values.values.get(name) is not None:
        return values.whole(name)
    return scaling.whole(name, values.whole("max_position_embeddings", 2048))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
