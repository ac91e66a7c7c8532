"""The rotations of positions (RoPE), made as far as a run has come.

Models claim contexts of millions of tokens; a table of them all would take gigabytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from specdec.models.llama_config import Rope

FloatArray = NDArray[np.float32]
_BLOCK = 2048


class Rotations:
    """Cosines and sines [num_positions, head_dim / 2] of the positions reached so far."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self.speeds = inverse_frequencies(rope, head_dim)
        self._scale = attention_factor(rope)
        self.cosines = np.empty((0, self.speeds.size), np.float32)
        self.sines = self.cosines

    def reach(self, length: int) -> None:
        """Make the table hold the positions 0 … `length` − 1; call it with the forward's lock."""
        known = len(self.cosines)
        if length <= known:
            return
        wanted = max(length, 2 * known)
        end = -(-wanted // _BLOCK) * _BLOCK
        angles = np.outer(np.arange(known, end, dtype=np.float64), self.speeds)
        cosines, sines = self._scale * np.cos(angles), self._scale * np.sin(angles)
        self.cosines = np.concatenate([self.cosines, cosines.astype(np.float32)])
        self.sines = np.concatenate([self.sines, sines.astype(np.float32)])


def inverse_frequencies(rope: Rope, head_dim: int) -> NDArray[np.float64]:
    """Return the rotation speeds [head_dim / 2] in radians per position, scaling included."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    speeds: NDArray[np.float64] = rope.rope_theta**-exponents
    if rope.rope_type == "linear":
        return speeds / rope.factor
    if rope.rope_type == "llama3":
        return _llama3(speeds, rope)
    if rope.rope_type == "yarn":
        return _yarn(speeds, rope, head_dim)
    return speeds


def attention_factor(rope: Rope) -> float:
    """Return what cosines and sines are multiplied by: YaRN sharpens attention, others do not."""
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, share: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0


def _llama3(speeds: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
    """Slow long wavelengths down by `factor`, keep short ones, blend between (Llama 3.1)."""
    low, high = rope.low_freq_factor, rope.high_freq_factor
    turns = rope.original_length * speeds / (2 * math.pi)  # over the original context
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    blended: NDArray[np.float64] = speeds * (share + (1.0 - share) / rope.factor)
    return blended


def _yarn(speeds: NDArray[np.float64], rope: Rope, head_dim: int) -> NDArray[np.float64]:
    """Keep speeds that turn often over the original context, slow seldom ones, blend between.

    "NTK-by-parts" of Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.2.
    """

    def dimension(turns: float) -> float:
        """Return which speed (counted in two per head dimension) turns so often."""
        length = rope.original_length / (turns * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high += 0.001 if low == high else 0.0
    slowed = np.clip((np.arange(speeds.size) - low) / (high - low), 0.0, 1.0)
    blended: NDArray[np.float64] = speeds * (1.0 - slowed) + speeds / rope.factor * slowed
    return blended
