"""Attention over cached tokens: right, and the same for a row whatever rows stand beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from specdec.models import kernels

NUM_HEADS, NUM_KV_HEADS = 6, 2
NUM_ROWS = 11


@pytest.fixture(scope="module")
def attend() -> Any:
    return njit(nogil=True, error_model="numpy", parallel=True)(kernels.attend)


@pytest.fixture(scope="module")
def soften() -> Any:
    return njit(nogil=True, error_model="numpy")(kernels.soften)


class Call:
    """Random queries, keys and values; each row sees the shared slots and some of the others."""

    def __init__(self, num_shared: int, head_dim: int) -> None:
        rng = np.random.default_rng(num_shared)
        capacity = num_shared + NUM_ROWS + 3
        width = (NUM_HEADS + 2 * NUM_KV_HEADS) * head_dim
        self.num_shared = num_shared
        self.qkv = rng.standard_normal((NUM_ROWS, width)).astype(np.float32)
        self.keys = rng.standard_normal((NUM_KV_HEADS, head_dim, capacity)).astype(np.float32)
        self.values = rng.standard_normal((NUM_KV_HEADS, capacity, head_dim)).astype(np.float32)
        self.tails = np.zeros((NUM_ROWS, NUM_ROWS), np.intp)
        self.tail_lengths = rng.integers(1, NUM_ROWS + 1, NUM_ROWS)
        for tail in self.tails:  # in context order, wherever the slots are
            tail[:] = num_shared + rng.permutation(NUM_ROWS)

    def run(self, attend: Any, rows: slice) -> NDArray[np.float32]:
        qkv = np.ascontiguousarray(self.qkv[rows])
        out = np.zeros((len(qkv), NUM_HEADS * self.keys.shape[1]), np.float32)
        tails, lengths = self.tails[rows], self.tail_lengths[rows]
        attend(qkv, self.keys, self.values, NUM_HEADS, self.num_shared, tails, lengths, out)
        return out

    def textbook(self, row: int) -> NDArray[np.float64]:
        head_dim = self.keys.shape[1]
        slots = [*range(self.num_shared), *self.tails[row, : self.tail_lengths[row]]]
        mixed = []
        for head in range(NUM_HEADS):
            own = head * NUM_KV_HEADS // NUM_HEADS
            query = self.qkv[row, head * head_dim : (head + 1) * head_dim].astype(np.float64)
            scores = query @ self.keys[own][:, slots] / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            mixed.append(weights / weights.sum() @ self.values[own][slots])
        return np.concatenate(mixed)


# Around the slots that a block of rows is scored against at a time, and a head too wide for one.
SIZES = [(0, 8), (1, 8), (511, 8), (512, 8), (513, 64), (1100, 8), (7, kernels.WIDEST_HEAD + 4)]


@pytest.mark.parametrize(("num_shared", "head_dim"), SIZES)
def test_rows_attend_as_the_textbook_says(attend: Any, num_shared: int, head_dim: int) -> None:
    call = Call(num_shared, head_dim)
    expected = [call.textbook(row) for row in range(NUM_ROWS)]
    np.testing.assert_allclose(call.run(attend, slice(None)), expected, atol=2e-5)


@pytest.mark.parametrize(("num_shared", "head_dim"), SIZES)
def test_a_row_comes_out_bitwise_the_same_alone_in_a_block_and_behind_one(
    attend: Any, num_shared: int, head_dim: int
) -> None:
    call = Call(num_shared, head_dim)
    alone = np.concatenate([call.run(attend, slice(row, row + 1)) for row in range(NUM_ROWS)])
    for first in range(NUM_ROWS):
        for last in range(first + 1, NUM_ROWS + 1):
            assert np.array_equal(call.run(attend, slice(first, last)), alone[first:last])


def test_the_exponential_is_right_over_its_whole_range(soften: Any) -> None:
    scores = np.linspace(kernels.FARTHEST, 0.0, 200_001, dtype=np.float32)
    expected = np.exp(scores.astype(np.float64))
    total = soften(scores)
    assert np.abs(scores / expected - 1).max() < 3e-7
    assert total == pytest.approx(expected.sum(), rel=1e-4)  # added up in single precision
    far = np.array([5.0, -55.5, -1e30, -np.inf, 5.0], np.float32)
    assert soften(far) == 2.0
    np.testing.assert_array_equal(far, [1, 0, 0, 0, 1])  # and nothing subnormal, which is slow


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_score_is_not_hidden(soften: Any, broken: float) -> None:
    for place in range(20):
        scores = np.zeros(20, np.float32)
        scores[place] = broken
        assert np.isnan(soften(scores))
