"""A Llama in a GGUF file, rewritten as a Hugging Face folder that every backend opens.

Weights come out as fp32, whatever they were quantised to: only so are they bit for bit the numbers
that the file stands for (a product of an fp16 scale and a 4-bit integer plus an fp16 offset needs
more digits than fp16 or bf16 has). Tensors are streamed, so the memory needed stays small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.fetch.gguf_tokenizer import write_json, write_tokenizer
from specdec.models.fetch.progress import Progress, no_progress

_ROWS_PER_STEP = 4096
_OUTSIDE_BLOCKS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


def convert_gguf(gguf_file: Path, folder: Path, *, progress: Progress = no_progress) -> None:
    """Write the model in `gguf_file` into the existing, empty `folder`."""
    progress(0, None, f"Reading {gguf_file.name}")
    try:
        reader = GGUFReader(gguf_file)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # what the library raises depends on where the file is damaged
        raise ModelError(
            f"{gguf_file} cannot be read as a GGUF file ({error}); download it again."
        ) from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(metadata, tensors)
    factors = tensors.pop(_ROPE_FACTORS, None)
    config["rope_scaling"] = _rope_scaling(metadata, config, factors)
    names = _tensor_names(config)
    _check_tensors(tensors.keys(), names.keys())
    write_json(folder / "config.json", config)
    write_tokenizer(metadata, folder)
    orders = {
        "q_proj": _row_order(config["num_attention_heads"], config["head_dim"]),
        "k_proj": _row_order(config["num_key_value_heads"], config["head_dim"]),
    }
    _write_safetensors(
        folder / "model.safetensors",
        {names[name]: tensor for name, tensor in tensors.items()},
        orders,
        progress,
    )


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json, `rope_scaling` still missing."""
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"This GGUF file holds a model of the architecture {architecture!r}, and only 'llama' "
            "can be converted; choose another file or a Hugging Face id."
        )
    width, heads = (
        _integer(metadata, "embedding_length"),
        _integer(metadata, "attention.head_count"),
    )
    head_dim = metadata.get("llama.attention.key_length", width // heads)
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ModelError("This GGUF file rotates only a part of each head, which no Llama does.")
    if "token_embd.weight" not in tensors:
        raise ModelError("This GGUF file holds no token embeddings; download it again.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": _integer(metadata, "feed_forward_length"),
        "num_hidden_layers": _integer(metadata, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        # Single-precision metadata: 9.999999747e-06 is the nearest float to 1e-05.
        "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        "max_position_embeddings": _integer(metadata, "context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def _integer(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(f"llama.{key}")
    if not isinstance(value, int):
        raise ModelError(
            f"A plain Llama has one value of llama.{key}, and this GGUF file has {value!r}; "
            "choose another file or a Hugging Face id."
        )
    return value


def _shortest(value: float) -> float:
    """Return the shortest decimal that names the same single-precision number."""
    return float(str(np.float32(value)))


def _rope_scaling(
    metadata: Mapping[str, Any], config: Mapping[str, Any], factors: Any
) -> dict[str, Any] | None:
    """Return config.json's `rope_scaling`, or None for plain rotary positions.

    Llama 3's scaling stands in the file only as a tensor of divisors, one per frequency; the
    settings that Llama 3.1 and 3.2 use are taken when they reproduce that very tensor.
    """
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "linear" and factors is None:
        return {"rope_type": "linear", "factor": metadata["llama.rope.scaling.factor"]}
    if kind != "none":
        raise ModelError(f"This GGUF file scales positions by {kind!r}, which is not supported.")
    if factors is None:
        return None
    divisors = np.asarray(factors.data, dtype=np.float64)
    scaling = {
        "rope_type": "llama3",
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": metadata.get(
            "llama.rope.scaling.original_context_length", 8192
        ),
    }
    expected = _llama_3_divisors(scaling, config["rope_theta"], config["head_dim"])
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise ModelError(
            "This GGUF file scales its rotary frequencies in a way that is not Llama 3's; "
            "give the Hugging Face id of the same model instead."
        )
    return scaling


def _llama_3_divisors(
    scaling: Mapping[str, Any], theta: float, head_dim: int
) -> NDArray[np.float64]:
    """Return what Llama 3.1 divides each of the `head_dim / 2` frequencies by."""
    turns = scaling["original_max_position_embeddings"] / (
        2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    )
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return divisors


def _tensor_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Map every tensor that this Llama has in GGUF to its name in the folder."""
    names = dict(_OUTSIDE_BLOCKS)
    if config["tie_word_embeddings"]:
        del names["output.weight"]
    for block in range(config["num_hidden_layers"]):
        for theirs, ours in _IN_BLOCK.items():
            names[f"blk.{block}.{theirs}.weight"] = f"model.layers.{block}.{ours}.weight"
    return names


def _check_tensors(present: Any, expected: Any) -> None:
    if missing := sorted(expected - present):
        raise ModelError(
            f"This GGUF file lacks {missing[0]} ({len(missing)} tensors in all): it is one part of "
            "a model or no plain Llama; choose another file or a Hugging Face id."
        )
    if extra := sorted(present - expected):
        raise ModelError(f"This GGUF file holds {extra[0]}, which a plain Llama does not have.")


def _row_order(heads: int, head_dim: int) -> NDArray[np.intp]:
    """Return where in GGUF each row of a q or k matrix stands.

    llama.cpp rotates neighbours (0, 1), (2, 3), … where Hugging Face rotates (0, d/2), (1, d/2+1),
    …, so its converter interleaved the two halves of every head.
    """
    rows = np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).ravel()


def _write_safetensors(
    path: Path,
    tensors: Mapping[str, Any],
    orders: Mapping[str, NDArray[np.intp]],
    progress: Progress,
) -> None:
    """Stream `tensors` into a safetensors file as fp32.

    Args:
        path: The file to write.
        tensors: The reader's tensors by the name they get.
        orders: The order of rows to write, by the last-but-one part of the name.
        progress: Told of the bytes written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name, tensor in tensors.items():
        shape = [int(size) for size in reversed(tensor.shape)]
        end = total + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [total, end]}
        total = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        done = 0
        for name, tensor in tensors.items():
            for rows in _dequantised(tensor, orders.get(name.split(".")[-2])):
                progress(done, total, "unpacking the weights")
                done += _write_array(file, rows)
    progress(done, total, "unpacking the weights")


def _dequantised(tensor: Any, order: NDArray[np.intp] | None) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of a tensor in `order`, some thousand at a time."""
    stored = np.atleast_2d(tensor.data)
    if order is not None:
        stored = stored[order]
    for start in range(0, len(stored), _ROWS_PER_STEP):
        try:
            yield dequantize(stored[start : start + _ROWS_PER_STEP], tensor.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                f"The quantisation {tensor.tensor_type.name} of this GGUF file cannot be unpacked; "
                "choose a file with another one."
            ) from error


def _write_array(file: BinaryIO, values: NDArray[np.float32]) -> int:
    return file.write(np.ascontiguousarray(values, dtype="<f4").data)
