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
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.fetch.gguf_tokenizer import read_vocabulary, write_json, write_tokenizer
from specdec.models.fetch.progress import Progress, no_progress
from specdec.models.json_values import Values
from specdec.models.llama import expected_tensors
from specdec.models.llama_config import LlamaConfig

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
_NEUTRAL: Mapping[str, object] = {
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attention.causal": True,
    "use_parallel_residual": False,
    "logit_scale": 1,
    "embedding_scale": 1,
    "residual_scale": 1,
    "rope.scaling.attn_factor": 1,
}
"""Metadata that change the arithmetic, and the value that does not."""


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
    values = Values(gguf_file, {key: _plain(value) for key, value in metadata.items()})
    config = _config(values, tensors)
    factors = tensors.pop(_ROPE_FACTORS, None)
    config["rope_scaling"] = _rope_scaling(values, config, factors)
    names = _tensor_names(config, tensors)
    _check_tensors(tensors.keys(), names.keys())
    vocabulary = read_vocabulary(values, config["vocab_size"])
    config |= {"bos_token_id": vocabulary.ids.get("bos"), "eos_token_id": vocabulary.ids.get("eos")}
    write_json(folder / "config.json", config)
    _check_shapes(gguf_file, names, tensors, dict(expected_tensors(LlamaConfig.load(folder))))
    write_tokenizer(vocabulary, folder)
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


def _config(values: Values, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json, the scaling and the special tokens still missing."""
    architecture = values.values.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"{values.file} holds a model of the architecture {architecture!r:.60}, and only "
            "'llama' can be converted; choose another file or a Hugging Face id."
        )
    width, heads = (
        values.whole(f"llama.{n}") for n in ("embedding_length", "attention.head_count")
    )
    kv_heads = values.whole("llama.attention.head_count_kv", heads)
    head_dim = values.whole("llama.attention.key_length", width // heads)
    _refuse_other_meanings(values, head_dim)
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{values.file} holds no token embeddings; download it again.")
    embedding = [int(size) for size in tensors["token_embd.weight"].shape]
    if len(embedding) != 2 or embedding[0] != width or head_dim % 2 or heads % kv_heads:
        raise ModelError(
            f"{values.file} gives {width} as embedding_length, {heads} heads, {kv_heads} key heads "
            f"and {head_dim} numbers a head over embeddings of {embedding}, which do not fit "
            "together; download it again."
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": embedding[1],
        "hidden_size": width,
        "intermediate_size": values.whole("llama.feed_forward_length"),
        "num_hidden_layers": values.whole("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        # Single-precision metadata: 9.999999747e-06 is the nearest float to 1e-05.
        "rms_norm_eps": _shortest(values.real("llama.attention.layer_norm_rms_epsilon", zero=True)),
        "rope_theta": _shortest(values.real("llama.rope.freq_base", 10000.0)),
        "max_position_embeddings": values.whole("llama.context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }


def _refuse_other_meanings(values: Values, head_dim: int) -> None:
    """Refuse what llama.cpp would compute otherwise than a plain Llama."""
    if values.whole("llama.rope.dimension_count", head_dim) != head_dim:
        raise ModelError(f"{values.file} rotates only a part of each head, which no Llama does.")
    if values.whole("llama.attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{values.file} has values of another width than keys; choose another.")
    for name, neutral in _NEUTRAL.items():
        value = values.values.get(f"llama.{name}")
        if value is not None and value != neutral:
            raise ModelError(
                f"{values.file} gives llama.{name} as {value!r:.60}, which a plain Llama does not "
                "have; choose another file or a Hugging Face id."
            )


def _plain(value: Any) -> Any:
    """Return a value of the metadata as Python's own type."""
    return value.item() if isinstance(value, np.generic) else value


def _shortest(value: float) -> float:
    """Return the shortest decimal that names the same single-precision number."""
    return float(str(np.float32(value)))


def _rope_scaling(values: Values, config: Mapping[str, Any], factors: Any) -> dict[str, Any] | None:
    """Return config.json's `rope_scaling`, or None for plain rotary positions.

    Llama 3's scaling stands in the file only as a tensor of divisors, one per frequency; the
    settings that Llama 3.1 and 3.2 use are taken when they reproduce that very tensor.
    """
    kind = values.values.get("llama.rope.scaling.type", "none")
    # Older files have the factor by another name; without any, llama.cpp scales by 1.
    linear = values.real("llama.rope.scale_linear", 1.0, zero=True) or 1.0
    factor = values.real("llama.rope.scaling.factor", linear, zero=True) or 1.0
    if kind == "linear" and factors is None:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factors is None:
        return _yarn(values, factor)
    if kind not in ("none", ""):
        raise ModelError(
            f"{values.file} scales positions by {kind!r:.60}"
            f"{'' if factors is None else ' and by factors'}, which is not supported; give the "
            "Hugging Face id of the same model instead."
        )
    if factors is None:
        return None
    divisors = np.asarray(factors.data, dtype=np.float64)
    if not divisors.size or not np.isfinite(divisors).all():
        raise ModelError(
            f"{values.file} has rotary factors that are no numbers; download it again."
        )
    scaling = {
        "rope_type": "llama3",
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": values.whole(
            "llama.rope.scaling.original_context_length", 8192
        ),
    }
    expected = _llama_3_divisors(scaling, config["rope_theta"], config["head_dim"])
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise ModelError(
            f"{values.file} scales its rotary frequencies in a way that is not Llama 3's; "
            "give the Hugging Face id of the same model instead."
        )
    return scaling


def _yarn(values: Values, factor: float) -> dict[str, Any]:
    """Return YaRN's scaling; llama.cpp's own settings of it are refused where they are others."""
    for name, usual in (
        ("yarn_ext_factor", 1),
        ("yarn_attn_factor", 1),
        ("yarn_log_multiplier", 0),
    ):
        if values.values.get(f"llama.rope.scaling.{name}", usual) not in (usual, -1):
            raise ModelError(
                f"{values.file} sets llama.rope.scaling.{name}, which is not supported; give the "
                "Hugging Face id of the same model instead."
            )
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": values.whole(
            "llama.rope.scaling.original_context_length", values.whole("llama.context_length")
        ),
        "beta_fast": values.real("llama.rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": values.real("llama.rope.scaling.yarn_beta_slow", 1.0),
    }


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


def _tensor_names(config: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, str]:
    """Map every tensor that this Llama has in GGUF to its name in the folder.

    Ends with the first block of which nothing is there: a file may claim any number.
    """
    names = dict(_OUTSIDE_BLOCKS)
    if config["tie_word_embeddings"]:
        del names["output.weight"]
    for block in range(config["num_hidden_layers"]):
        for theirs, ours in _IN_BLOCK.items():
            names[f"blk.{block}.{theirs}.weight"] = f"model.layers.{block}.{ours}.weight"
        if f"blk.{block}.attn_norm.weight" not in present:
            break
    return names


def _check_tensors(present: Any, expected: Any) -> None:
    if missing := sorted(expected - present):
        raise ModelError(
            f"This GGUF file lacks {missing[0]}: it is one part of a model or no plain Llama; "
            "choose another file or a Hugging Face id."
        )
    if extra := sorted(present - expected):
        raise ModelError(f"This GGUF file holds {extra[0]}, which a plain Llama does not have.")


def _check_shapes(
    file: Path,
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Hold the shape of every tensor against the one that the metadata make it."""
    for theirs, ours in names.items():
        shape = tuple(int(size) for size in reversed(tensors[theirs].shape))
        if shape != shapes[ours]:
            raise ModelError(
                f"{theirs} in {file} has shape {list(shape)}, and its metadata make it "
                f"{list(shapes[ours])}; download it again."
            )


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
        if tensor.tensor_type == GGMLQuantizationType.F64:  # which the library leaves as it is
            yield stored[start : start + _ROWS_PER_STEP].astype(np.float32)
            continue
        try:
            yield dequantize(stored[start : start + _ROWS_PER_STEP], tensor.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                f"The quantisation {tensor.tensor_type.name} of this GGUF file cannot be unpacked; "
                "choose a file with another one."
            ) from error


def _write_array(file: BinaryIO, values: NDArray[np.float32]) -> int:
    return file.write(np.ascontiguousarray(values, dtype="<f4").data)
