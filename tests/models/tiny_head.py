"""A complete, tiny, random feature head in a folder, and what it computes, written out plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

EPS = 1e-5
ROPE_THETA = 10000.0


def write_tiny_head(
    folder: Path,
    *,
    width: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 48,
    layers: int = 1,
    aux: tuple[int, ...] | None = (1, 2, 3),
    vocab_size: int = 300,
    token_ids: np.ndarray | None = None,
    old: bool = False,
    seed: int = 0,
    **config: Any,
) -> dict[str, np.ndarray]:
    """Write a head and return its tensors by the names of the new form."""
    rng = np.random.default_rng(seed)
    head_dim = width // heads
    ids = np.arange(0, vocab_size, 2) if token_ids is None else token_ids

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    def gains(count: int = width) -> np.ndarray:
        return rng.uniform(0.5, 1.5, count).astype(np.float32)

    num_aux = len(aux or (0, 0, 0))
    tensors = {
        "fc.weight": matrix(width, num_aux * width),
        "norm.weight": gains(),
        "lm_head.weight": matrix(len(ids), width, gain=2.5),
        "layers.0.hidden_norm.weight": gains(),
        "d2t": (ids - np.arange(len(ids))).astype(np.int64),
        "t2d": np.isin(np.arange(vocab_size), ids),
    }
    for layer in range(layers):
        read = width if layer else 2 * width
        tensors |= {
            f"layers.{layer}.{name}.weight": tensor
            for name, tensor in {
                "input_layernorm": gains(),
                "self_attn.q_proj": matrix(heads * head_dim, read, gain=1.5),
                "self_attn.k_proj": matrix(kv_heads * head_dim, read, gain=1.5),
                "self_attn.v_proj": matrix(kv_heads * head_dim, read),
                "self_attn.o_proj": matrix(width, heads * head_dim),
                "post_attention_layernorm": gains(),
                "mlp.gate_proj": matrix(ffn, width),
                "mlp.up_proj": matrix(ffn, width),
                "mlp.down_proj": matrix(width, ffn),
            }.items()
        }
    if config.get("norm_before_fc"):
        tensors["input_norm.weight"] = gains(num_aux * width)
    numbers = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": EPS,
        "rope_theta": ROPE_THETA,
        "vocab_size": vocab_size,
    }
    folder.mkdir(parents=True, exist_ok=True)
    whole: dict[str, Any] = {"draft_vocab_size": len(ids)} | config
    if old:
        whole |= numbers | {"architectures": ["LlamaForCausalLMEagle3"]}
        if aux is not None:
            whole["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": list(aux)}
        stored = {name.replace("layers.0.", "midlayer."): t for name, t in tensors.items()}
    else:
        whole |= {
            "architectures": ["Eagle3Speculator"],
            "speculators_model_type": "eagle3",
            "transformer_layer_config": numbers,
            "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "tiny"}},
        }
        if aux is not None:
            whole["eagle_aux_hidden_state_layer_ids"] = list(aux)
        stored = tensors
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(stored, folder / "model.safetensors")
    return tensors


def _norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + EPS) * gain


def _turn(x: np.ndarray, position: int) -> np.ndarray:
    """Rotate [heads, head_dim], halves paired."""
    half = x.shape[1] // 2
    angles = position * ROPE_THETA ** -(np.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=1
    )


def reference_logits(
    tensors: dict[str, np.ndarray],
    embedding: np.ndarray,
    token_ids: list[int],
    states: np.ndarray,
    *,
    heads: int = 4,
    normed_residual: bool = True,
    normed_states: bool = False,
) -> np.ndarray:
    """Return the head's logits [num_rows] after `token_ids`, from the formulas, in float64.

    `states` [num_read, num_aux, width] are the target's, of the first tokens.
    """
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    num_layers = sum(name.endswith("o_proj.weight") for name in t)
    head_dim = t["layers.0.self_attn.q_proj.weight"].shape[0] // heads
    seen: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(num_layers)]
    out = np.empty(0)
    for place in range(len(token_ids) - 1):
        if place < len(states):
            joined = states[place].astype(np.float64).reshape(-1)
            if normed_states:
                joined = _norm(joined, t["input_norm.weight"])
            x = t["fc.weight"] @ joined
        else:
            x = out
        for layer in range(num_layers):
            w = {n.removeprefix(f"layers.{layer}."): v for n, v in t.items()}
            if layer == 0:
                embedded = embedding[token_ids[place + 1]].astype(np.float64)
                normed = _norm(x, w["hidden_norm.weight"])
                read = np.concatenate([_norm(embedded, w["input_layernorm.weight"]), normed])
                x = normed if normed_residual else x
            else:
                read = _norm(x, w["input_layernorm.weight"])
            q, k, v = (
                (w[f"self_attn.{part}_proj.weight"] @ read).reshape(-1, head_dim) for part in "qkv"
            )
            seen[layer].append((_turn(k, place), v))
            mixed = []
            for head, query in enumerate(_turn(q, place)):
                group = head * len(k) // heads
                scores = np.array([query @ key[group] for key, _ in seen[layer]])
                weights = np.exp((scores - scores.max()) / np.sqrt(head_dim))
                weights /= weights.sum()
                values = zip(weights, seen[layer], strict=True)
                mixed.append(sum(share * value[group] for share, (_, value) in values))
            x = x + w["self_attn.o_proj.weight"] @ np.concatenate(mixed)
            normed = _norm(x, w["post_attention_layernorm.weight"])
            gate = w["mlp.gate_proj.weight"] @ normed
            hidden = gate / (1 + np.exp(-gate)) * (w["mlp.up_proj.weight"] @ normed)
            x = x + w["mlp.down_proj.weight"] @ hidden
        out = x
    return t["lm_head.weight"] @ _norm(out, t["norm.weight"])
