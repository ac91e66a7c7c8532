"""The key–value cache of the portable backend, and which of its slots a fed token sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 1024


class PortableCache:
    """Keys [num_layers, num_kv_heads, head_dim, capacity] and values (last two swapped)."""

    def __init__(self, num_layers: int, num_kv_heads: int, head_dim: int) -> None:
        self.length = 0
        self.keys = np.empty((num_layers, num_kv_heads, head_dim, _FIRST_CAPACITY), np.float32)
        self.values = np.empty((num_layers, num_kv_heads, _FIRST_CAPACITY, head_dim), np.float32)

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens."""
        needed, capacity = self.length + count, self.keys.shape[3]
        if needed <= capacity:
            return
        grown = max(needed, 2 * capacity)
        keys = np.empty((*self.keys.shape[:3], grown), np.float32)
        values = np.empty((*self.values.shape[:2], grown, self.values.shape[3]), np.float32)
        keys[..., : self.length] = self.keys[..., : self.length]
        values[:, :, : self.length] = self.values[:, :, : self.length]
        self.keys, self.values = keys, values

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    def gather(self, start: int, slots: Sequence[int]) -> None:
        if list(slots) != list(range(start, start + len(slots))):
            kept = slice(start, start + len(slots))
            self.keys[..., kept] = self.keys[..., list(slots)]
            self.values[:, :, kept] = self.values[:, :, list(slots)]
        self.length = start + len(slots)


@dataclass(frozen=True, slots=True, eq=False)
class Visibility:
    """Which slots each fed token sees: the first `num_shared` and those of its tail.

    `tails` [num_fed, longest_tail] holds the further slots in context order, the token's own last;
    `tail_lengths` [num_fed] how many they are; `positions` [num_fed] where each token stands.
    """

    num_shared: int
    positions: NDArray[np.intp]
    tails: NDArray[np.intp]
    tail_lengths: NDArray[np.intp]

    @classmethod
    def of_chain(cls, num_cached: int, num_fed: int) -> Visibility:
        """Let each token see every earlier one."""
        slots = np.arange(num_cached, num_cached + num_fed, dtype=np.intp)
        tails = np.broadcast_to(slots, (num_fed, num_fed)).copy()
        return cls(num_cached, slots, tails, np.arange(1, num_fed + 1, dtype=np.intp))

    @classmethod
    def of_tree(cls, num_cached: int, parents: Sequence[int], num_fed: int) -> Visibility:
        """Let each of the last `num_fed` nodes see its ancestors and itself.

        The nodes before them stand in the last of the `num_cached` slots. A node's depth gives
        its position.
        """
        num_shared = num_cached + num_fed - len(parents)
        paths: list[list[int]] = []
        for node, parent in enumerate(parents):
            paths.append([*(paths[parent] if parent >= 0 else ()), num_shared + node])
        fed = paths[len(parents) - num_fed :]
        lengths = np.array([len(path) for path in fed], np.intp)
        tails = np.zeros((num_fed, lengths.max(initial=0)), np.intp)
        for tail, path in zip(tails, fed, strict=True):
            tail[: len(path)] = path
        return cls(num_shared, num_shared + lengths - 1, tails, lengths)
