"""A small PyTorch Llama that reads Hugging Face folders, for teacher and draft alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The numbers of a `config.json` that decide the arithmetic."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    norm_epsilon: float
    rope_theta: float

    @classmethod
    def read(cls, folder: Path) -> LlamaShape:
        """Read the shape from a Hugging Face folder."""
        config = json.loads((folder / "config.json").read_text())
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            inner=config["intermediate_size"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            norm_epsilon=config["rms_norm_eps"],
            rope_theta=config["rope_theta"],
        )


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learnt gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class Cache:
    """Keys and values of a batch of dialogues, one row each, every row at its own length.

    In `dtype`: half as wide they take half the time to read, which is most of what a step costs.
    """

    def __init__(
        self, shape: LlamaShape, rows: int, capacity: int, dtype: torch.dtype = torch.float32
    ) -> None:
        size = (shape.layers, rows, shape.kv_heads, capacity, shape.head_width)
        self.keys = torch.zeros(size, dtype=dtype)
        self.values = torch.zeros(size, dtype=dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn (batch, heads, time, head width) by rotary angles, halves paired as in Hugging Face."""
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-high, low), dim=-1) * sine


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, over whole rows in `dtype`."""

    dtype = torch.float32

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, queries, bias=False)
        self.k_proj = nn.Linear(shape.width, keys, bias=False)
        self.v_proj = nn.Linear(shape.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """Turn (batch, time, heads · head width) into (batch, heads, time, head width)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Attend causally within each row."""
        q = rotate(self.split(self.q_proj(x)), *angles)
        k = rotate(self.split(self.k_proj(x)), *angles)
        rows = (one.to(self.dtype) for one in (q, k, self.split(self.v_proj(x))))
        mixed = F.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2).to(x.dtype))

    def step(
        self, x: Tensor, angles: tuple[Tensor, Tensor], positions: Tensor, kv: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Attend from one new token per row, after writing it into the cache in place."""
        keys, values = kv
        rows, longest = torch.arange(len(x)), int(positions.max()) + 1
        q = rotate(self.split(self.q_proj(x)), *angles)
        new = rotate(self.split(self.k_proj(x)), *angles)[:, :, 0]
        keys[rows, :, positions] = new.to(keys.dtype)
        values[rows, :, positions] = self.split(self.v_proj(x))[:, :, 0].to(values.dtype)
        # Grouped queries as time steps of their key's head: no copy of the cache.
        grouped = q.reshape(len(x), keys.shape[1], -1, self.head_width).to(keys.dtype)
        mask = (torch.arange(longest) <= positions[:, None])[:, None, None]
        mixed = F.scaled_dot_product_attention(
            grouped, keys[:, :, :longest], values[:, :, :longest], attn_mask=mask
        )
        return self.o_proj(mixed.reshape(len(x), 1, -1).to(x.dtype))


class FeedForward(nn.Module):
    """The gated feed-forward half of a layer."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply SwiGLU."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Run whole rows."""
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))

    def step(
        self, x: Tensor, angles: tuple[Tensor, Tensor], positions: Tensor, kv: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Run one new token per row."""
        x = x + self.self_attn.step(self.input_layernorm(x), angles, positions, kv)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """A Llama up to its final norm; logits are `hidden @ embedding.T`, the embedding being tied."""

    def __init__(self, shape: LlamaShape, embedding: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("embedding", embedding, persistent=False)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)

    @classmethod
    def read(cls, folder: Path) -> Llama:
        """Load a Hugging Face folder with a tied embedding, in fp32."""
        weights = {
            name.removeprefix("model."): tensor.float()
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        model = cls(LlamaShape.read(folder), weights.pop("embed_tokens.weight"))
        model.load_state_dict(weights)
        return model

    def attend_in(self, dtype: torch.dtype) -> None:
        """Attend in another type, which a processor may be faster in."""
        for layer in self.layers:
            layer.self_attn.dtype = dtype

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary angles, (rows or 1, 1, time, head width)."""
        exponent = torch.arange(0, self.shape.head_width, 2) / self.shape.head_width
        turns = positions[:, None, :, None] * self.shape.rope_theta**-exponent
        turns = torch.cat((turns, turns), dim=-1)
        return turns.cos(), turns.sin()

    def forward(self, ids: Tensor) -> Tensor:
        """Map (rows, time) token ids to (rows, time, width) hidden states after the final norm."""
        angles = self.angles(torch.arange(ids.shape[1])[None])
        x = self.embedding[ids]
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x)

    def step(self, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Feed one token per row at that row's own position; (rows, width) after the final norm."""
        angles = self.angles(positions[:, None])
        x = self.embedding[ids][:, None]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            x = layer.step(x, angles, positions, (keys, values))
        return self.norm(x)[:, 0]
