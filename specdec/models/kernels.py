"""The decoding forward of a Llama in Numba: a few rows at a time, bitwise independent of how many.

BLAS packs the weights anew for a handful of rows and takes longer for 2 rows than for 1. These
kernels read each weight once for four rows. Two rules make a token's logits the same to the last
bit whether it is fed alone, in a chain or in a tree:

- Matrix products always work on blocks of exactly four rows (short blocks are padded with zero
  rows), so that every output comes from the same instructions in the same order. Only they may
  reassociate sums.
- Everything else (norms, rotations, attention) is compiled without fast-math, so that vector and
  scalar code round alike, and sums run over the visible tokens in context order, wherever their
  slots are.

Importing this module compiles `decode`, or loads it from Numba's cache on disk. It is the only
function that is compiled on its own and kept there, for one signature; the others become part of
it. Were they kept as well, a process that finds some of them there and compiles the rest would
write a `decode` that crashes whoever loads it (Numba 0.68): a second signature is enough for
that, or a first start that was interrupted. All of it stands in one file, because a change in
another would not be seen: what is kept is as old as the file of `decode`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import register_jitable
from numpy.typing import NDArray

from specdec.models.base import AFTER_NORM
from specdec.settings import quiet_threads

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]
BLOCK = 4
SLOTS = 512
"""That a block of rows is scored against at a time: the scores stay in the nearest cache."""
FARTHEST = np.float32(-60.0)
"""The score below the largest from which on a token weighs nothing."""
WIDEST_HEAD = 256
"""Head dimensions up to which rows attend in blocks."""

quiet_threads()  # Numba launches its threads later than here

_STRICT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_PARALLEL: dict[str, Any] = _STRICT | {"parallel": True}
# What a vectorised dot product needs; NaN and infinity keep their meaning.
_PRODUCT: dict[str, Any] = _STRICT | {"fastmath": {"reassoc", "contract", "nsz"}}


@register_jitable(**_PRODUCT)
def _dot2x4(first: FloatArray, second: FloatArray, rows: FloatArray, i: int) -> tuple[Any, ...]:
    """Return two weights [k] · rows[i … i + 3] [k], eight sums held in registers.

    The one dot product of the whole forward. Two weights at once halve the loads per product,
    which is what nine rows would otherwise wait for.
    """
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0.0)
    for k in range(first.shape[0]):
        a0 += first[k] * rows[i, k]
        a1 += first[k] * rows[i + 1, k]
        a2 += first[k] * rows[i + 2, k]
        a3 += first[k] * rows[i + 3, k]
        b0 += second[k] * rows[i, k]
        b1 += second[k] * rows[i + 1, k]
        b2 += second[k] * rows[i + 2, k]
        b3 += second[k] * rows[i + 3, k]
    return a0, a1, a2, a3, b0, b1, b2, b3


@register_jitable(**_PARALLEL)
def project(weights: FloatArray, rows: FloatArray, out: FloatArray) -> None:
    """out[i, r] = weights[r] · rows[i] for weights [m, k], rows [4b, k], out [4b, m]."""
    num_weights = weights.shape[0]
    for pair in prange((num_weights + 1) // 2):
        r, s = 2 * pair, min(2 * pair + 1, num_weights - 1)
        for i in range(0, rows.shape[0], BLOCK):
            sums = _dot2x4(weights[r], weights[s], rows, i)
            for j in range(BLOCK):
                out[i + j, r] = sums[j]
                out[i + j, s] = sums[BLOCK + j]


@register_jitable(**_PARALLEL)
def project_gated(
    gate: FloatArray, up: FloatArray, rows: FloatArray, num_rows: int, out: FloatArray
) -> None:
    """out[i, r] = silu(gate[r] · rows[i]) · (up[r] · rows[i]) (SwiGLU, Shazeer 2020)."""
    for r in prange(gate.shape[0]):
        for i in range(0, rows.shape[0], BLOCK):
            sums = _dot2x4(gate[r], up[r], rows, i)
            for j in range(min(BLOCK, num_rows - i)):
                out[i + j, r] = sums[j] / (np.float32(1.0) + math.exp(-sums[j])) * sums[BLOCK + j]


@register_jitable(**_STRICT)
def add(rows: FloatArray, num_rows: int, out: FloatArray) -> None:
    """out[i] += rows[i]."""
    for i in range(num_rows):
        for k in range(rows.shape[1]):
            out[i, k] += rows[i, k]


@register_jitable(**_STRICT)
def show(rows: FloatArray, index: int, asked: IntArray, out: FloatArray) -> None:
    """out[i, j] = rows[i] where asked[j] is `index`."""
    for j in range(asked.shape[0]):
        if asked[j] == index:
            for i in range(out.shape[0]):
                for k in range(rows.shape[1]):
                    out[i, j, k] = rows[i, k]


@register_jitable(**_STRICT)
def normalise(
    rows: FloatArray, num_rows: int, weight: FloatArray, eps: float, out: FloatArray
) -> None:
    """RMSNorm (Zhang & Sennrich 2019): out[i] = rows[i] / rms(rows[i]) · weight."""
    for i in range(num_rows):
        total = np.float32(0.0)
        for k in range(rows.shape[1]):
            total += rows[i, k] * rows[i, k]
        scale = np.float32(1.0 / math.sqrt(total / rows.shape[1] + eps))
        for k in range(rows.shape[1]):
            out[i, k] = rows[i, k] * scale * weight[k]


@register_jitable(**_STRICT)
def rotate(
    qkv: FloatArray,
    num_heads: int,
    cosines: FloatArray,
    sines: FloatArray,
    positions: IntArray,
) -> None:
    """Turn queries and keys by their positions, in place (RoPE, Su et al. 2021, halves paired)."""
    half = cosines.shape[1]
    for i in range(positions.shape[0]):
        cosine, sine = cosines[positions[i]], sines[positions[i]]
        for head in range(num_heads):
            start = head * 2 * half
            for d in range(half):
                a, b = qkv[i, start + d], qkv[i, start + half + d]
                qkv[i, start + d] = a * cosine[d] - b * sine[d]
                qkv[i, start + half + d] = b * cosine[d] + a * sine[d]


@register_jitable(**_STRICT)
def soften(scores: FloatArray) -> Any:
    """scores[j] = exp(scores[j] − max), in place; return their sum, added up in order.

    exp(x) = 2ᵏ · exp(r) with |r| ≤ ln 2 / 2 and the polynomial of Cephes (`expf`, Moshier), to
    2 · 10⁻⁷ of the value: written out because the library's own is called number by number.
    Below −60, nothing beside the 1 of the largest, it is 0: what would come out smaller still turns
    subnormal once it is multiplied, and such a product takes a hundred times as long.
    """
    peak = scores.max()
    powers = np.empty(scores.shape[0], np.int32)
    for j in range(scores.shape[0]):
        x = scores[j] - peak
        is_far = x < FARTHEST  # not so of NaN, which stays
        x = FARTHEST if is_far else x
        k = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
        powers[j] = np.int32(0) if is_far else (k + np.int32(127)) << np.int32(23)
        r = x - np.float32(k) * np.float32(0.693359375)
        r = r - np.float32(k) * np.float32(-2.12194440e-4)
        y = np.float32(1.9875691500e-4)
        y = y * r + np.float32(1.3981999507e-3)
        y = y * r + np.float32(8.3334519073e-3)
        y = y * r + np.float32(4.1665795894e-2)
        y = y * r + np.float32(1.6666665459e-1)
        y = y * r + np.float32(5.0000001201e-1)
        scores[j] = y * (r * r) + r + np.float32(1.0)
    factors = powers.view(np.float32)
    for j in range(scores.shape[0]):
        scores[j] *= factors[j]
    total = np.float32(0.0)
    for j in range(scores.shape[0]):
        total += scores[j]
    return total


@register_jitable(**_STRICT)
def score_tail(queries: FloatArray, key: FloatArray, tail: IntArray, scores: FloatArray) -> None:
    """scores[t] += queries · key[:, tail[t]] for queries [head_dim], key [head_dim, capacity]."""
    for d in range(0, key.shape[0], 4):
        q0, q1, q2, q3 = queries[d], queries[d + 1], queries[d + 2], queries[d + 3]
        k0, k1, k2, k3 = key[d], key[d + 1], key[d + 2], key[d + 3]
        for t in range(tail.shape[0]):
            slot = tail[t]
            score = scores[t] + q0 * k0[slot]
            score = score + q1 * k1[slot]
            score = score + q2 * k2[slot]
            scores[t] = score + q3 * k3[slot]


@register_jitable(**_STRICT)
def attend_row(
    queries: FloatArray,
    key: FloatArray,
    value: FloatArray,
    num_shared: int,
    tail: IntArray,
    out: FloatArray,
) -> None:
    """One head of one row: queries [head_dim] scaled, out [head_dim]; the rest as in `attend`."""
    head_dim = key.shape[0]
    scores = np.zeros(num_shared + tail.shape[0], np.float32)
    for d in range(0, head_dim, 4):  # four at a time save loads; the order of adding stays
        q0, q1, q2, q3 = queries[d], queries[d + 1], queries[d + 2], queries[d + 3]
        k0, k1, k2, k3 = key[d], key[d + 1], key[d + 2], key[d + 3]
        for slot in range(num_shared):
            score = scores[slot] + q0 * k0[slot]
            score = score + q1 * k1[slot]
            score = score + q2 * k2[slot]
            scores[slot] = score + q3 * k3[slot]
    score_tail(queries, key, tail, scores[num_shared:])
    total = soften(scores)
    mixed = np.zeros(head_dim, np.float32)
    for slot in range(num_shared):
        for d in range(head_dim):
            mixed[d] += scores[slot] * value[slot, d]
    for t in range(tail.shape[0]):
        for d in range(head_dim):
            mixed[d] += scores[num_shared + t] * value[tail[t], d]
    for d in range(head_dim):
        out[d] = mixed[d] / total


@register_jitable(**_STRICT)
def attend_block(
    queries: FloatArray,
    key: FloatArray,
    value: FloatArray,
    num_shared: int,
    tails: IntArray,
    tail_lengths: IntArray,
    out: FloatArray,
) -> None:
    """One head of four rows, which read keys and values once for all four.

    Each row's sums run in the order of `attend_row`, so that both give the same to the last bit.

    Args:
        queries: [4, head_dim], scaled.
        key, value: of the head.
        num_shared, tails, tail_lengths: as in `attend`, of the four rows.
        out: [4, head_dim].
    """
    head_dim = key.shape[0]
    scores = np.zeros((BLOCK, num_shared + tails.shape[1]), np.float32)
    part = np.empty((BLOCK, SLOTS), np.float32)  # of a constant size: only so it is vectorised
    for begin in range(0, num_shared, SLOTS):
        count = min(SLOTS, num_shared - begin)
        part[:] = np.float32(0.0)
        for d in range(0, head_dim, 2):
            a0, a1 = queries[0, d], queries[0, d + 1]
            b0, b1 = queries[1, d], queries[1, d + 1]
            c0, c1 = queries[2, d], queries[2, d + 1]
            e0, e1 = queries[3, d], queries[3, d + 1]
            k0, k1 = key[d, begin : begin + count], key[d + 1, begin : begin + count]
            for j in range(count):
                part[0, j] = part[0, j] + a0 * k0[j] + a1 * k1[j]
                part[1, j] = part[1, j] + b0 * k0[j] + b1 * k1[j]
                part[2, j] = part[2, j] + c0 * k0[j] + c1 * k1[j]
                part[3, j] = part[3, j] + e0 * k0[j] + e1 * k1[j]
        for i in range(BLOCK):
            for j in range(count):
                scores[i, begin + j] = part[i, j]
    totals = np.empty(BLOCK, np.float32)
    for i in range(BLOCK):
        seen = scores[i, : num_shared + tail_lengths[i]]
        score_tail(queries[i], key, tails[i, : tail_lengths[i]], seen[num_shared:])
        totals[i] = soften(seen)
    mixed = np.zeros((BLOCK, WIDEST_HEAD), np.float32)
    even = num_shared // 2 * 2
    for slot in range(0, even, 2):
        a0, a1 = scores[0, slot], scores[0, slot + 1]
        b0, b1 = scores[1, slot], scores[1, slot + 1]
        c0, c1 = scores[2, slot], scores[2, slot + 1]
        e0, e1 = scores[3, slot], scores[3, slot + 1]
        v0, v1 = value[slot], value[slot + 1]
        for d in range(head_dim):
            mixed[0, d] = mixed[0, d] + a0 * v0[d] + a1 * v1[d]
            mixed[1, d] = mixed[1, d] + b0 * v0[d] + b1 * v1[d]
            mixed[2, d] = mixed[2, d] + c0 * v0[d] + c1 * v1[d]
            mixed[3, d] = mixed[3, d] + e0 * v0[d] + e1 * v1[d]
    for i in range(BLOCK):
        for slot in range(even, num_shared):
            for d in range(head_dim):
                mixed[i, d] += scores[i, slot] * value[slot, d]
        for t in range(tail_lengths[i]):
            for d in range(head_dim):
                mixed[i, d] += scores[i, num_shared + t] * value[tails[i, t], d]
        for d in range(head_dim):
            out[i, d] = mixed[i, d] / totals[i]


@register_jitable(**_PARALLEL)
def attend(
    qkv: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    num_heads: int,
    num_shared: int,
    tails: IntArray,
    tail_lengths: IntArray,
    out: FloatArray,
) -> None:
    """Grouped-query attention of each fed row over the tokens it sees, four rows at a time.

    Args:
        qkv: queries first, [rows, ≥ num_heads · head_dim].
        keys: [num_kv_heads, head_dim, capacity], so that scores vectorise over slots.
        values: [num_kv_heads, capacity, head_dim].
        num_heads: query heads.
        num_shared: every row sees slots 0 … num_shared − 1.
        tails: further slots each row sees, in context order, [rows, longest tail].
        tail_lengths: how many of them, [rows].
        out: [≥ rows, num_heads · head_dim].
    """
    num_rows = tail_lengths.shape[0]
    head_dim = keys.shape[1]
    group = num_heads // keys.shape[0]
    scale = np.float32(1.0 / math.sqrt(head_dim))
    num_blocks = num_rows // BLOCK if head_dim <= WIDEST_HEAD else 0
    num_parts = num_blocks + num_rows - num_blocks * BLOCK
    for task in prange(num_parts * num_heads):
        part, head = task // num_heads, task % num_heads
        first, last = head * head_dim, (head + 1) * head_dim
        key, value = keys[head // group], values[head // group]
        if part < num_blocks:
            i = part * BLOCK
            attend_block(
                qkv[i : i + BLOCK, first:last] * scale,
                key,
                value,
                num_shared,
                tails[i : i + BLOCK],
                tail_lengths[i : i + BLOCK],
                out[i : i + BLOCK, first:last],
            )
        else:
            i = part + num_blocks * (BLOCK - 1)
            tail = tails[i, : tail_lengths[i]]
            queries = qkv[i, first:last] * scale
            attend_row(queries, key, value, num_shared, tail, out[i, first:last])


_F1, _F2 = types.float32[::1], types.float32[:, ::1]
_F3, _F4 = types.float32[:, :, ::1], types.float32[:, :, :, ::1]
_I1, _I2 = types.intp[::1], types.intp[:, ::1]
# Of `decode`, in the order of its arguments: aligned, C-contiguous arrays, or it is refused.
_SIGNATURE = _F2(
    *(_F2, types.intp, _I1),
    *(_F2, _F3, _F3, _F2, _F3, _F3, _F3, _F1, _F2),
    *(types.float64, types.intp, _F2, _F2, _I1),
    *(_F4, _F4, types.intp, types.intp, _I2, _I1),
    *(_I1, _F3),
    *(_F2, _F2),
)


@njit(_SIGNATURE, cache=True, nogil=True)
def decode(
    rows: FloatArray,
    num_rows: int,
    layers: IntArray,
    attention_norm: FloatArray,
    qkv_weights: FloatArray,
    attention_out: FloatArray,
    ffn_norm: FloatArray,
    gate: FloatArray,
    up: FloatArray,
    down: FloatArray,
    final_norm: FloatArray,
    head: FloatArray,
    eps: float,
    num_heads: int,
    cosines: FloatArray,
    sines: FloatArray,
    positions: IntArray,
    keys: FloatArray,
    values: FloatArray,
    num_filled: int,
    num_shared: int,
    tails: IntArray,
    tail_lengths: IntArray,
    asked: IntArray,
    inside: FloatArray,
    entry: FloatArray,
    entering: FloatArray,
) -> FloatArray:
    """Run embedded tokens through the layers; return logits [4b, num_head_rows].

    Args:
        rows: embeddings [4b, hidden], zero from `num_rows` on; overwritten.
        num_rows: how many of them are tokens.
        layers: which layers to run, in order.
        attention_norm, qkv_weights, attention_out, ffn_norm, gate, up, down, final_norm, head:
            as in `LlamaWeights`.
        eps: of the norms.
        num_heads: query heads.
        cosines, sines: rotations [context_length, head_dim / 2].
        positions: of the tokens [num_rows].
        keys: cache [num_layers_run, num_kv_heads, head_dim, capacity]; slots from `num_filled` on
            are filled.
        values: cache [num_layers_run, num_kv_heads, capacity, head_dim]; likewise.
        num_filled: filled slots before this call.
        num_shared, tails, tail_lengths: which slots each token sees, as in `attend`.
        asked: after which of the layers run, counted from 0, the rows are wanted; `AFTER_NORM`
            for those after the final norm.
        inside: takes them, [num_rows, num_asked, hidden].
        entry: as in `LlamaWeights`; without rows for a plain Llama.
        entering: what a feature head's first layer multiplies with it, [4b, 2 · hidden].
    """
    num_kv_heads, head_dim = keys.shape[1], keys.shape[2]
    num_padded = rows.shape[0]
    normed = np.zeros((num_padded, rows.shape[1]), np.float32)
    qkv = np.zeros((num_padded, qkv_weights.shape[1]), np.float32)
    mixed = np.zeros((num_padded, attention_out.shape[2]), np.float32)
    hidden = np.zeros((num_padded, gate.shape[1]), np.float32)
    update = np.zeros((num_padded, rows.shape[1]), np.float32)
    for index in range(layers.shape[0]):
        layer = layers[index]
        if layer == 0 and entry.shape[0] > 0:
            project(entry, entering, qkv)
        else:
            normalise(rows, num_rows, attention_norm[layer], eps, normed)
            project(qkv_weights[layer], normed, qkv)
        rotate(qkv, num_heads + num_kv_heads, cosines, sines, positions)
        for i in range(num_rows):
            for kv_head in range(num_kv_heads):
                first_key = (num_heads + kv_head) * head_dim
                first_value = first_key + num_kv_heads * head_dim
                for d in range(head_dim):
                    keys[index, kv_head, d, num_filled + i] = qkv[i, first_key + d]
                    values[index, kv_head, num_filled + i, d] = qkv[i, first_value + d]
        attend(qkv, keys[index], values[index], num_heads, num_shared, tails, tail_lengths, mixed)
        project(attention_out[layer], mixed, update)
        add(update, num_rows, rows)
        normalise(rows, num_rows, ffn_norm[layer], eps, normed)
        project_gated(gate[layer], up[layer], normed, num_rows, hidden)
        project(down[layer], hidden, update)
        add(update, num_rows, rows)
        show(rows, index, asked, inside)
    normalise(rows, num_rows, final_norm, eps, normed)
    show(normed, AFTER_NORM, asked, inside)
    logits = np.empty((num_padded, head.shape[0]), np.float32)
    project(head, normed, logits)
    return logits
