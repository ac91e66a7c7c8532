"""Model folders as people have them: what each holds, and whether it opens. docs/supported.md is
written from this table (`python -m tests.models.supported`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models.tiny import write_tiny_llama

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Folder:
    """One row.

    Attributes:
        words: what is special about the folder.
        changes: of config.json; `...` leaves a field out.
        refusal: what its one sentence says (a pattern), None where it opens.
        spoil: further changes.
        options: of `write_tiny_llama`.
        means: what transformers, which is stricter about types, must read instead.
    """

    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    refusal: str | None = None
    spoil: Spoil | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    means: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        write_tiny_llama(folder, **{"layers": 2, **self.options})
        path = folder / "config.json"
        config = json.loads(path.read_text()) | dict(self.changes)
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
        if self.spoil is not None:
            self.spoil(folder)
        return folder


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add(name: str, values: np.ndarray) -> Spoil:
    return lambda folder: rewrite(folder, lambda tensors: tensors.update({name: values}))


def drop(name: str) -> Spoil:
    return lambda folder: rewrite(folder, lambda tensors: tensors.pop(name))


def recast(kind: type) -> Spoil:
    return lambda folder: rewrite(
        folder, lambda tensors: tensors.update({k: v.astype(kind) for k, v in tensors.items()})
    )


def shard(folder: Path, index: Mapping[str, str] | None = None, *, inside: bool = False) -> None:
    """Split the model in two files with an index, beside which (or inside) stale copies stand."""
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        stale = {name: -tensors[name] for name in names if files[name] != file and inside}
        save_file(part | stale, folder / file, metadata={"format": "pt"})
    weights = {name: values * np.float32(0.5) for name, values in tensors.items()}
    save_file(weights, folder / "zz-overlay.safetensors")
    (folder / ".hidden.safetensors").write_bytes(b"no weights at all")
    text = json.dumps({"metadata": {}, "weight_map": {**files, **(index or {})}})
    (folder / "model.safetensors.index.json").write_text(text)


def broken_index(index: Mapping[str, Any]) -> Spoil:
    return lambda folder: shard(folder, index)


def written(name: str, text: str) -> Spoil:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def lie(field_: str, value: object) -> Spoil:
    """Change a field of the embedding's entry in the header."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header["model.embed_tokens.weight"][field_] = value
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return spoil


def as_shape(name: str, *shape: int) -> Spoil:
    return add(name, np.zeros(shape, np.float32))


def zeros(kind: type, *shape: int) -> np.ndarray:
    return np.zeros(shape, kind)


EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def rope(**values: object) -> dict[str, Any]:
    return {"rope_scaling": values}


OBEYED = [
    Folder("a plain Llama"),
    Folder("a head of its own", options={"tie": False}),
    Folder(
        "tie_word_embeddings left out means false",
        {"tie_word_embeddings": ...},
        options={"tie": False},
    ),
    Folder("one key head for all queries", options={"kv_heads": 1}),
    Folder("num_key_value_heads null", {"num_key_value_heads": None}, options={"kv_heads": 4}),
    Folder("head_dim null", {"head_dim": None}),
    Folder("hidden_act null", {"hidden_act": "silu"}),
    Folder("hidden_act by its other name, swish", {"hidden_act": "swish"}),
    Folder("a whole number for rms_norm_eps", {"rms_norm_eps": 1}, means={"rms_norm_eps": 1.0}),
    Folder("rms_norm_eps left out", {"rms_norm_eps": ...}),
    Folder("max_position_embeddings left out", {"max_position_embeddings": ...}),
    Folder("a context of 10⁹ tokens", {"max_position_embeddings": 10**9}),
    Folder("rope_theta left out", {"rope_theta": ...}),
    Folder("another rope_theta", {"rope_theta": 500}),
    Folder("rope_scaling left out", {"rope_scaling": ...}),
    Folder("linear scaling", rope(rope_type="linear", factor=3.0)),
    Folder("linear scaling by the older name", rope(type="linear", factor=3.0)),
    Folder("a scaling of type default", rope(rope_type="default")),
    Folder("dynamic scaling", rope(rope_type="dynamic", factor=4.0)),
    Folder("Llama 3's scaling", rope(**LLAMA_3)),
    Folder("YaRN", rope(**YARN)),
    Folder("YaRN by the older name", rope(type="yarn", **{k: YARN[k] for k in list(YARN)[1:]})),
    Folder("YaRN without an original length", rope(rope_type="yarn", factor=4.0)),
    Folder("YaRN with an attention_factor", rope(**YARN, attention_factor=1.7)),
    Folder("YaRN with mscale", rope(**YARN, mscale=0.7, mscale_all_dim=1.3)),
    Folder("YaRN with betas", rope(**YARN, beta_fast=4.0, beta_slow=2.0)),
    Folder("YaRN not truncated", rope(**YARN, truncate=False)),
    Folder("YaRN with factor null", rope(**YARN | {"factor": None})),
    Folder(
        "rope_parameters, as newer files spell it",
        {"rope_theta": ..., "rope_scaling": ...}
        | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}},
    ),
    Folder(
        "both spellings: rope_scaling counts",
        rope(rope_type="linear", factor=3.0)
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    Folder(
        "attention_bias and mlp_bias null",
        {"attention_bias": None, "mlp_bias": None},
        means={"attention_bias": False, "mlp_bias": False},
    ),
    Folder("float16 weights", spoil=recast(np.float16)),
    Folder("float64 weights", spoil=recast(np.float64)),
    Folder("an index, with stale files and overlays beside", spoil=shard),
    Folder("an end of turn in several tokens", {"eos_token_id": [2, 0]}),
    Folder(
        "an embedding padded beyond the tokenizer",
        {"vocab_size": 320},
        spoil=lambda folder: rewrite(
            folder,
            lambda t: t.update({EMBEDDING: np.pad(t[EMBEDDING], ((0, 20), (0, 0)))}),
        ),
    ),
    Folder(
        "stored rotations, as old files have",
        spoil=add(f"{Q[:-6]}rotary_emb.inv_freq", zeros(np.float32, 4)),
    ),
    Folder(
        "a head stored although it is tied",
        spoil=lambda folder: rewrite(
            folder, lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()})
        ),
    ),
    Folder("Mistral without a window", {"model_type": "mistral", "sliding_window": None}),
    Folder(
        "Mistral whose window holds its context", {"model_type": "mistral", "sliding_window": 2048}
    ),
    Folder(
        "values of other tools",
        {"pretraining_tp": 4, "transformers_version": "4.0", "custom": {"a": 1}},
    ),
]


def no(field_: str, value: object, says: str) -> Folder:
    return Folder(f"{field_} {json.dumps(value)}", {field_: value}, f"{field_} as .*{says}")


PACKED = "holds packed weights"
REFUSED = [
    no("hidden_act", "gelu", "SiLU only; no backend"),
    no("hidden_act", 3, "SiLU only"),
    no("attention_bias", True, r"no biases; the MLX backend \(--backend mlx\) opens it"),
    no("mlp_bias", True, "no biases; the MLX"),
    no("partial_rotary_factor", 0.5, "whole of each head"),
    no("rope_interleaved", True, "halves of a head"),
    no("position_embedding_type", "alibi", "by rotations"),
    no("no_rope_layers", [1, 0], "in every layer"),
    no("attention_chunk_size", 128, "every token see"),
    no("is_causal", False, "no token see later"),
    no("qk_norm", True, "no queries or keys"),
    no("logit_scale", 0.5, "logits as they are"),
    no("logits_scaling", 8, "logits as they are"),
    no("final_logit_softcapping", 30.0, "caps no values"),
    no("attn_logit_softcapping", 50.0, "caps no values"),
    no("embedding_multiplier", 12, "embeddings as they are"),
    no("residual_multiplier", 0.2, "unscaled"),
    no("attention_multiplier", 0.02, "root of the head"),
    no("num_local_experts", 8, "no experts"),
    no("quantization_config", {"quant_method": "gptq", "bits": 4}, "no packed weights"),
    no("quantization", {"group_size": 64, "bits": 4}, "no packed weights; the MLX"),
    no("layer_types", ["sliding_attention", "full_attention"], "rejected tokens back"),
    no("sliding_window", 1024, "rejected tokens back"),
    Folder(
        "Mistral's default window",
        {"model_type": "mistral", "max_position_embeddings": 8192},
        "sliding_window as 4096",
    ),
    Folder("another architecture", {"model_type": "qwen2"}, "of type 'qwen2'.*--backend mlx"),
    Folder("no architecture", {"model_type": ...}, "of type None"),
    Folder("longrope", rope(rope_type="longrope"), "no rotary scaling of type 'longrope'"),
    Folder("a scaling of no known type", rope(rope_type=["yarn"]), "no rotary scaling of type"),
    Folder("a scaling that is no object", {"rope_scaling": [1]}, "scaling that is no object"),
    Folder(
        "rotations by kind of layer",
        {"rope_parameters": {"full_attention": {}}},
        "rotations of their own for full_attention",
    ),
    Folder(
        "partial rotations in the scaling",
        rope(rope_type="linear", factor=2.0, partial_rotary_factor=0.5),
        "partial_rotary_factor as 0.5",
    ),
    Folder("linear scaling without a factor", rope(rope_type="linear"), "no 'factor'"),
    Folder("a factor of 0", rope(rope_type="linear", factor=0), "factor as 0"),
    Folder(
        "Llama 3's scaling with its bounds crossed",
        rope(**LLAMA_3 | {"low_freq_factor": 9.0}),
        "low_freq_factor as 9",
    ),
    Folder("YaRN on a theta of 1", {"rope_theta": 1} | rope(**YARN), "rope_theta as 1"),
    no("rms_norm_eps", -1.0, "no number from 0"),
    no("rms_norm_eps", "1e-5", "no number"),
    no("rope_theta", 0, "no number above 0"),
    no("vocab_size", 2**40, "no whole number up to"),
    no("hidden_size", 0, "no whole number above 0"),
    no("head_dim", 6, "as 6|.*wide"),
    no("tie_word_embeddings", "false", "neither true nor false"),
    no("max_position_embeddings", -1, "no whole number above 0"),
    Folder("more layers than there are", {"num_hidden_layers": 10**9}, r"lacks the tensor .*\.2\."),
    Folder("another width than the tensors have", {"intermediate_size": 2**30}, "has shape"),
    Folder("key heads that do not divide the heads", {"num_key_value_heads": 3}, "cannot share 3"),
    Folder("config.json without an object", spoil=written("config.json", "[]"), refusal="object"),
    Folder(
        "config.json that is cut", spoil=written("config.json", '{"a": '), refusal="cannot be read"
    ),
    Folder(
        "config.json nested without end",
        spoil=written("config.json", "[" * 10**5),
        refusal="config.json",
    ),
    Folder("a missing tensor", spoil=drop(f"{Q}.weight"), refusal=f"lacks the tensor {Q}"),
    Folder("a missing head", {"tie_word_embeddings": False}, "lacks the tensor lm_head"),
    Folder(
        "a tensor of another shape", spoil=as_shape(f"{K}.weight", 3, 5), refusal=r"shape \[3, 5\]"
    ),
    Folder("a tensor of no dimension", spoil=as_shape(NORM), refusal=r"shape \[\]"),
    Folder(
        "a bias that config.json does not name",
        spoil=as_shape(f"{Q}.bias", 32),
        refusal="plain Llama",
    ),
    Folder(
        "norms of queries that config.json does not name",
        spoil=as_shape("model.layers.1.self_attn.q_norm.weight", 8),
        refusal="q_norm",
    ),
    Folder(
        "a tied head with values of its own",
        spoil=as_shape("lm_head.weight", 300, 32),
        refusal="tie_word_embeddings",
    ),
    Folder(
        "weights packed by GPTQ", spoil=add(f"{Q}.qweight", zeros(np.int32, 4, 32)), refusal=PACKED
    ),
    Folder(
        "weights packed by MLX", spoil=add(f"{Q}.scales", zeros(np.float16, 32, 1)), refusal=PACKED
    ),
    Folder(
        "weights packed by compressed-tensors",
        spoil=add(f"{Q}.weight_packed", zeros(np.int32, 4)),
        refusal=PACKED,
    ),
    Folder("weights as whole numbers", spoil=recast(np.int8), refusal="stored as I8"),
    Folder(
        "no weights",
        spoil=lambda folder: (folder / "model.safetensors").unlink(),
        refusal="no .safetensors file",
    ),
    Folder("a weights file that is cut", spoil=cut, refusal="is damaged"),
    Folder(
        "a weights file that is none",
        spoil=written("model.safetensors", "<html>"),
        refusal="is damaged",
    ),
    Folder("an empty weights file", spoil=written("model.safetensors", ""), refusal="is damaged"),
    Folder(
        "a header as long as it likes",
        spoil=lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64),
        refusal="is damaged",
    ),
    Folder(
        "a tensor that lies about its shape",
        spoil=lie("shape", [2**40, 2**40]),
        refusal="is damaged",
    ),
    Folder(
        "a tensor that lies about its place",
        spoil=lie("data_offsets", [0, 2**60]),
        refusal="is damaged",
    ),
    Folder("a tensor of an unknown type", spoil=lie("dtype", "F128"), refusal="is damaged"),
    Folder("a tensor of a shape that is none", spoil=lie("shape", "all"), refusal="is damaged"),
    Folder(
        "an index that names a missing file",
        spoil=broken_index({"x": "model-7.safetensors"}),
        refusal="no model-7",
    ),
    Folder(
        "an index that leaves the folder",
        spoil=broken_index({"x": "../m.safetensors"}),
        refusal="no file of the folder",
    ),
    Folder(
        "an index that names a hidden file",
        spoil=broken_index({"x": ".hidden.safetensors"}),
        refusal="no file of the folder",
    ),
    Folder("an index with a number", spoil=broken_index({"x": 5}), refusal="names 5"),
    Folder(
        "an index that misses a tensor's file",
        spoil=broken_index({NORM: "zz-none.safetensors"}),
        refusal="zz-none",
    ),
    Folder(
        "an index that names the wrong file",
        spoil=broken_index({NORM: "zz-overlay.safetensors", "y": NORM + ".safetensors"}),
        refusal="has no",
    ),
    Folder(
        "an index without a map",
        spoil=written("model.safetensors.index.json", '{"weight_map": []}'),
        refusal="no weight_map",
    ),
    Folder(
        "an index that is no JSON",
        spoil=written("model.safetensors.index.json", "x"),
        refusal="cannot be read",
    ),
    Folder(
        "two files that hold the same tensor",
        spoil=lambda f: (
            [
                (f / n).write_bytes((f / "model.safetensors").read_bytes())
                for n in ("a.safetensors", "b.safetensors")
            ]
            + [(f / "model.safetensors").unlink()]
        ),
        refusal="both hold",
    ),
    Folder(
        "draft_token_ids.npy that is no array",
        spoil=written("draft_token_ids.npy", "x"),
        refusal="draft_token_ids",
    ),
    Folder(
        "draft_token_ids.npy beyond the vocabulary",
        spoil=lambda f: np.save(f / "draft_token_ids.npy", [5, 300]),
        refusal="below 300",
    ),
    Folder(
        "draft_token_ids.npy out of order",
        spoil=lambda f: np.save(f / "draft_token_ids.npy", [5, 5]),
        refusal="ascending",
    ),
]
