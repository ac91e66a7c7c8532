"""Tiny random models of any architecture of transformers, as Hugging Face folders.

Weights are drawn so that the next-token distributions are far from flat, as in `tiny`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models.tiny import END_TOKEN_ID, write_tiny_tokenizer

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END_TOKEN_ID,
}
WINDOW = 8
"""Of the sliding layers: shorter than every context of the tests."""
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8} | MIXED,
    "mistral": {"sliding_window": WINDOW},
    "phi3": {"sliding_window": WINDOW},
    "gpt2": {},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8} | MIXED,
    "gpt_neox": {},
    "olmo2": {},
    "cohere": {},
    "qwen3_moe": {
        "head_dim": 8,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "bloom": {},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64},
}
"""By the name that transformers has for it."""


def write_network(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a random model of an architecture, with a tokenizer, and return its folder."""
    config = AutoConfig.for_model(kind, **(SMALL | KINDS.get(kind, {}) | changes))
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                gain = 1.0 if "embed" in name or "wte" in name else 1.5
                weights.normal_(0, gain / weights.shape[-1] ** 0.5, generator=generator)
            elif "bias" not in name:  # random signs, or a tied head would repeat its input
                weights.uniform_(0.5, 1.5, generator=generator)
                weights *= 1 - 2 * torch.randint(0, 2, weights.shape, generator=generator)
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
