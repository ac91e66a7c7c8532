"""The forward of a Llama in plain NumPy: prefills, attention weights, and machines without Numba.

BLAS is at its best on the many rows of a prompt. Where Numba is missing, decoding runs here too,
on blocks of exactly `DECODE_BLOCK` rows (padded with zeros) and attending row by row, so that a
token's logits do not depend on what it is fed together with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.models.base import AFTER_NORM, Inside
from specdec.models.cache import PortableCache, Visibility
from specdec.models.llama import Llama

FloatArray = NDArray[np.float32]
DECODE_BLOCK = 16
PREFILL_CHUNK = 256


def prefill(
    llama: Llama,
    layers: Sequence[int],
    token_ids: NDArray[np.intp],
    cache: PortableCache,
    inside: Inside,
) -> None:
    """Fill the cache with the keys and values of `token_ids`, a chunk at a time."""
    for start in range(0, token_ids.size, PREFILL_CHUNK):
        chunk = token_ids[start : start + PREFILL_CHUNK]
        positions = np.arange(cache.length, cache.length + chunk.size)
        cache.reserve(chunk.size)
        rows = llama.weights.embedding[chunk]
        slots = np.arange(cache.length + chunk.size)
        hidden_from = np.where(slots > positions[:, None], np.float32(-np.inf), np.float32(0))
        states: dict[int, FloatArray] = {}
        attention: list[FloatArray] = []
        for index, layer in enumerate(layers):
            queries = _queries(llama, cache, index, layer, rows, positions, chunk.size)
            keys = cache.keys[index, :, :, : slots.size]
            values = cache.values[index, :, : slots.size]
            shares = _softmax(np.matmul(queries, keys[:, None]) + hidden_from)
            mixed = np.matmul(shares, values[:, None])
            if inside.attention:
                attention.append(shares.reshape(-1, *shares.shape[2:]))
            rows = _after_attention(llama, layer, rows, _join_heads(mixed), chunk.size)
            if index in inside.layers:
                states[index] = rows
        if AFTER_NORM in inside.layers:
            states[AFTER_NORM] = _after_norm(llama, rows)
        inside.add(cache.length, _hidden(states, inside, rows), attention)
        cache.length += chunk.size


def decode(
    llama: Llama,
    layers: Sequence[int],
    rows: FloatArray,
    cache: PortableCache,
    visible: Visibility,
    inside: Inside,
    entering: FloatArray | None = None,
) -> FloatArray:
    """Return the logits [num_fed, num_head_rows] of embedded tokens [num_fed, hidden].

    `entering` is what the first layer of a feature head reads, [num_fed, 2 · hidden].
    """
    num_rows, num_slots = len(rows), cache.length + len(rows)
    cache.reserve(num_rows)
    shared = np.arange(visible.num_shared)
    tails = [visible.tails[i, : visible.tail_lengths[i]] for i in range(num_rows)]
    seen = [np.concatenate([shared, tail]) for tail in tails]
    states: dict[int, FloatArray] = {}
    attention: list[FloatArray] = []
    for index, layer in enumerate(layers):
        queries = _queries(
            llama, cache, index, layer, rows, visible.positions, DECODE_BLOCK, entering
        )
        mixed = np.empty_like(queries)
        weights = np.zeros((*queries.shape[:3], num_slots), np.float32)
        for i, slots in enumerate(seen):
            keys = np.ascontiguousarray(cache.keys[index][:, :, slots])
            values = np.ascontiguousarray(cache.values[index][:, slots])
            query = np.ascontiguousarray(queries[:, :, i])  # BLAS may round by its strides
            shares = _softmax(np.matmul(query, keys))
            mixed[:, :, i] = np.matmul(shares, values)
            weights[:, :, i, slots] = shares
        if inside.attention:
            attention.append(weights.reshape(-1, *weights.shape[2:]))
        rows = _after_attention(llama, layer, rows, _join_heads(mixed), DECODE_BLOCK)
        if index in inside.layers:
            states[index] = rows
    states[AFTER_NORM] = _after_norm(llama, rows)
    inside.add(cache.length, _hidden(states, inside, rows), attention)
    cache.length += num_rows
    return project(states[AFTER_NORM], llama.weights.head, DECODE_BLOCK)


def _hidden(states: dict[int, FloatArray], inside: Inside, rows: FloatArray) -> FloatArray:
    """Return the states wanted [rows, num_wanted, hidden_size], of [rows, hidden_size] each."""
    hidden = np.empty((len(rows), len(inside.layers), rows.shape[1]), np.float32)
    for column, layer in enumerate(inside.layers):
        hidden[:, column] = states[layer]
    return hidden


def _queries(
    llama: Llama,
    cache: PortableCache,
    index: int,
    layer: int,
    rows: FloatArray,
    positions: NDArray[np.intp],
    block: int,
    entering: FloatArray | None = None,
) -> FloatArray:
    """Cache keys and values; return scaled queries [num_kv_heads, group, rows, head_dim]."""
    c, w = llama.config, llama.weights
    if layer == 0 and entering is not None:
        qkv = project(entering, w.entry, block)
    else:
        normed = normalise(rows, w.attention_norm[layer], c.norm_eps)
        qkv = project(normed, w.qkv[layer], block)
    qkv = qkv.reshape(len(rows), -1, c.head_dim)
    queries, keys, values = np.split(qkv, [c.num_heads, c.num_heads + c.num_kv_heads], axis=1)
    fed = slice(cache.length, cache.length + len(rows))
    cache.keys[index, :, :, fed] = _rotate(llama, keys, positions).transpose(1, 2, 0)
    cache.values[index, :, fed] = values.transpose(1, 0, 2)
    turned = _rotate(llama, queries, positions) * np.float32(c.head_dim**-0.5)
    grouped = turned.reshape(len(rows), c.num_kv_heads, -1, c.head_dim).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(grouped)


def _after_attention(
    llama: Llama, layer: int, rows: FloatArray, mixed: FloatArray, block: int
) -> FloatArray:
    """Return the rows after the output projection and the feed-forward network of a layer."""
    w = llama.weights
    rows = rows + project(mixed, w.attention_out[layer], block)
    normed = normalise(rows, w.ffn_norm[layer], llama.config.norm_eps)
    gate = project(normed, w.gate[layer], block)
    hidden = gate / (1 + np.exp(-gate)) * project(normed, w.up[layer], block)
    return rows + project(hidden, w.down[layer], block)


def project(rows: FloatArray, weights: FloatArray, block: int) -> FloatArray:
    """Return rows [n, k] · weightsᵀ [k, m], as products of exactly `block` rows each.

    The rows stand on the right of the product: OpenBLAS rounds a row on the left of a small
    product by its place in the block.
    """
    out = np.empty((len(rows), len(weights)), np.float32)
    padded = np.zeros((block, rows.shape[1]), np.float32)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        padded[: len(part)] = part
        out[start : start + block] = (weights @ padded.T).T[: len(part)]
    return out


def _after_norm(llama: Llama, rows: FloatArray) -> FloatArray:
    """Return the rows after the final norm."""
    return normalise(rows, llama.weights.final_norm, llama.config.norm_eps)


def normalise(rows: FloatArray, weight: FloatArray, eps: float) -> FloatArray:
    """Return the rows over their root mean square, times `weight` (RMSNorm)."""
    mean_square = np.square(rows).mean(axis=-1, keepdims=True)
    normed: FloatArray = rows / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


def _rotate(llama: Llama, heads: FloatArray, positions: NDArray[np.intp]) -> FloatArray:
    """Turn [rows, heads, head_dim] by their positions [rows] (RoPE, halves paired)."""
    table = llama.rotations
    cosine, sine = table.cosines[positions][:, None], table.sines[positions][:, None]
    a, b = np.split(heads, 2, axis=-1)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)


def _softmax(scores: FloatArray) -> FloatArray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _join_heads(mixed: FloatArray) -> FloatArray:
    """Return [rows, num_heads · head_dim] from [num_kv_heads, group, rows, head_dim]."""
    return np.ascontiguousarray(mixed.transpose(2, 0, 1, 3)).reshape(mixed.shape[2], -1)
