"""Llama models on any CPU, in float32: Numba kernels for decoding, BLAS for prompts.

Batch-invariant by construction: in decoding, a token's logits are the same to the last bit
whether it is fed alone, in a chain of any length or in a tree. Greedy speculative decoding
therefore equals plain greedy decoding even at near ties.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models import numpy_forward
from specdec.models.base import Logits, middle_layers
from specdec.models.llama import LlamaConfig, LlamaWeights, read_head_ids

try:
    from specdec.models import kernels
except ImportError:  # no Numba for this Python or processor: slower, the same answers
    kernels = None  # type: ignore[assignment]

_FORWARD_LOCK = threading.Lock()
"""Numba's default threading layer aborts the process if two threads launch kernels at once, and
two forwards at once would only fight over the same cores and memory."""

_FIRST_CAPACITY = 1024
MAX_KERNEL_ROWS = 64
"""The longest prompt that is not left to BLAS, which packs the weights anew for every product."""


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
    """Which of the slots fed together each token sees, beside all the cached ones.

    `tails` [num_fed, num_fed] holds those slots in context order, `tail_lengths` [num_fed] how
    many they are, `positions` [num_fed] where each token stands.
    """

    positions: NDArray[np.intp]
    tails: NDArray[np.intp]
    tail_lengths: NDArray[np.intp]

    @classmethod
    def of_chain(cls, num_cached: int, num_fed: int) -> Visibility:
        """Let each token see every earlier one."""
        slots = np.arange(num_cached, num_cached + num_fed)
        tails = np.broadcast_to(slots, (num_fed, num_fed)).copy()
        return cls(slots, tails, np.arange(1, num_fed + 1))

    @classmethod
    def of_tree(cls, num_cached: int, parents: Sequence[int]) -> Visibility:
        """Let each token see its ancestors and itself; its depth gives its position."""
        num_fed = len(parents)
        tails = np.zeros((num_fed, num_fed), np.intp)
        lengths = np.zeros(num_fed, np.intp)
        for node, parent in enumerate(parents):
            above = 0 if parent < 0 else int(lengths[parent])
            tails[node, :above] = tails[parent, :above]
            tails[node, above] = num_cached + node
            lengths[node] = above + 1
        return cls(num_cached + lengths - 1, tails, lengths)


@dataclass(frozen=True, slots=True, eq=False)
class PortableModel:
    """A Llama's weights and what is derived from them once.

    Attributes:
        name: as the user knows it.
        config: the numbers of the architecture.
        weights: shared by every view of the model.
        layers: the layers this view runs, in order.
        head_ids: the token ids of the head's rows; None for the whole vocabulary.
        cosines: rotations [context_length, head_dim / 2].
        sines: likewise.
    """

    name: str
    config: LlamaConfig
    weights: LlamaWeights
    layers: tuple[int, ...]
    head_ids: NDArray[np.intp] | None
    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]

    backend = "portable"
    supports_trees = True

    @classmethod
    def load(cls, folder: Path, name: str | None = None) -> Self:
        """Open a Hugging Face folder and compile the kernels, so that no run pays for it.

        Raises:
            ModelError: the folder is no Llama this backend can run.
        """
        config = LlamaConfig.load(folder)
        if config.head_dim % 4:
            raise ModelError(
                f"The heads of {folder.name} are {config.head_dim} wide, no multiple of 4."
            )
        head_ids = read_head_ids(folder, config.vocab_size)
        model = cls(
            name or folder.name,
            config,
            LlamaWeights.load(folder, config, head_ids),
            tuple(range(config.num_layers)),
            head_ids,
            *config.rotations(config.context_length),
        )
        model.forward([0], model.new_cache())
        return model

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def without_middle_layers(self) -> PortableModel:
        skipped = middle_layers(self.config.num_layers)
        layers = tuple(layer for layer in self.layers if layer not in skipped)
        return replace(self, name=f"{self.name}, layers skipped", layers=layers)

    def new_cache(self) -> PortableCache:
        return PortableCache(len(self.layers), self.config.num_kv_heads, self.config.head_dim)

    def prefill(self, token_ids: Sequence[int], cache: PortableCache) -> None:
        """Feed tokens for their keys and values only: few of them by the kernels, many by BLAS."""
        ids = np.asarray(token_ids, np.intp)
        with _FORWARD_LOCK:
            if kernels is None or ids.size > MAX_KERNEL_ROWS:
                numpy_forward.prefill(self, ids, cache)
            else:
                visible = Visibility.of_chain(cache.length, ids.size)
                self._decode(ids, cache, visible, self.weights.head[:0])

    def forward(
        self,
        token_ids: Sequence[int],
        cache: PortableCache,
        *,
        parents: Sequence[int] | None = None,
        attention: list[NDArray[np.float32]] | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones, as `LanguageModel.forward` says."""
        ids = np.asarray(token_ids, np.intp)
        if parents is None:
            visible = Visibility.of_chain(cache.length, ids.size)
        else:
            visible = Visibility.of_tree(cache.length, parents)
        with _FORWARD_LOCK:
            if kernels is None or attention is not None:
                logits = numpy_forward.decode(self, ids, cache, visible, attention)
            else:
                logits = self._decode(ids, cache, visible, self.weights.head)
        return logits if self.head_ids is None else self._widen(logits)

    def _decode(
        self,
        ids: NDArray[np.intp],
        cache: PortableCache,
        visible: Visibility,
        head: NDArray[np.float32],
    ) -> Logits:
        w, c = self.weights, self.config
        cache.reserve(ids.size)
        rows = np.zeros((-(-ids.size // kernels.BLOCK) * kernels.BLOCK, c.hidden_size), np.float32)
        rows[: ids.size] = w.embedding[ids]
        logits: Logits = kernels.decode(
            rows,
            ids.size,
            np.asarray(self.layers, np.intp),
            w.attention_norm,
            w.qkv,
            w.attention_out,
            w.ffn_norm,
            w.gate,
            w.up,
            w.down,
            w.final_norm,
            head,
            c.norm_eps,
            c.num_heads,
            self.cosines,
            self.sines,
            visible.positions,
            cache.keys,
            cache.values,
            cache.length,
            visible.tails,
            visible.tail_lengths,
        )
        cache.length += ids.size
        return logits[: ids.size]

    def _widen(self, logits: Logits) -> Logits:
        """Spread the logits of a reduced head over the whole vocabulary."""
        wide = np.full((len(logits), self.vocab_size), -np.inf, np.float32)
        wide[:, self.head_ids] = logits
        return wide
