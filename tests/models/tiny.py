"""A complete, tiny, random Llama in a Hugging Face folder, for tests that need a real model.

The weights are random but scaled so that the next-token distributions are far from flat
(about half the entropy of a uniform one), so that greedy runs wander and acceptance rates lie
between 0 and 1. The final norm has random signs: with a tied head it would otherwise mostly
repeat its input.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_TOKEN_ID = 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The third merge joins the first two bytes of every emoji: a token that ends inside a character.
_FIRST_MERGES = [("t", "h"), ("th", "e"), ("ð", "Ł"), ("i", "n"), ("a", "n"), ("Ġ", "the")]


def tiny_vocabulary(vocab_size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return `vocab_size` token strings (specials, 256 bytes, merged) and the merges."""
    letters = "Ġetaoinshrdlucmfwygpbvkxqjz"
    pairs = dict.fromkeys(_FIRST_MERGES) | dict.fromkeys(itertools.product(letters, letters[1:]))
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = list(pairs)[: vocab_size - len(tokens)]
    tokens += ["".join(pair) for pair in merges]
    if len(tokens) != vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is outside 259 … 960")
    return tokens, merges


def write_tiny_tokenizer(folder: Path, *, vocab_size: int = 300) -> None:
    """Write tokenizer.json and tokenizer_config.json: single digits, then byte-level BPE."""
    tokens, merges = tiny_vocabulary(vocab_size)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": SPECIAL_TOKENS[END_TOKEN_ID],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )


def write_tiny_llama(
    folder: Path,
    *,
    vocab_size: int = 300,
    layers: int = 3,
    width: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 64,
    seed: int = 0,
    tie: bool = True,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tiny random fp32 Llama with its tokenizer into `folder` and return it.

    Args:
        folder: Created when missing.
        vocab_size: 259 to 960: three special tokens, 256 bytes, then merges.
        layers: Number of transformer blocks.
        width: Size of the residual stream, a multiple of `heads`.
        heads: Query heads; the head size is `width // heads` and must be even.
        kv_heads: Key and value heads, a divisor of `heads`.
        ffn: Inner width of the SwiGLU block.
        seed: Of the weights.
        tie: Whether the head shares the embedding matrix.
        rope_scaling: Copied into config.json, e.g. Llama-3's frequency scaling.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head_dim = width // heads
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None if rope_scaling is None else dict(rope_scaling),
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tie,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": END_TOKEN_ID,
        "torch_dtype": "float32",
    }
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        """Draw a matrix that turns unit-variance inputs into outputs of deviation `gain`."""
        return (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    def norm_weight() -> np.ndarray:
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(vocab_size, width, gain=2.5)}
    for index in range(layers):
        prefix = f"model.layers.{index}."
        tensors |= {
            prefix + "input_layernorm.weight": norm_weight(),
            prefix + "self_attn.q_proj.weight": matrix(width, width, gain=1.5),
            prefix + "self_attn.k_proj.weight": matrix(kv_heads * head_dim, width, gain=1.5),
            prefix + "self_attn.v_proj.weight": matrix(kv_heads * head_dim, width),
            prefix + "self_attn.o_proj.weight": matrix(width, width, gain=0.4),
            prefix + "post_attention_layernorm.weight": norm_weight(),
            prefix + "mlp.gate_proj.weight": matrix(ffn, width),
            prefix + "mlp.up_proj.weight": matrix(ffn, width),
            prefix + "mlp.down_proj.weight": matrix(width, ffn, gain=0.6),
        }
    tensors["model.norm.weight"] = norm_weight() * rng.choice([-1, 1], width).astype(np.float32)
    if not tie:
        tensors["lm_head.weight"] = matrix(vocab_size, width, gain=2.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": END_TOKEN_ID}
    )
    write_tiny_tokenizer(folder, vocab_size=vocab_size)
    return folder


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
