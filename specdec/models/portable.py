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
from specdec.models.base import AFTER_NORM, Inside, Logits, middle_layers, require
from specdec.models.cache import PortableCache, Visibility
from specdec.models.compiled import numba_kernels
from specdec.models.fetch.progress import COMPILING, Progress, no_progress
from specdec.models.llama import FloatArray, Llama, LlamaWeights, read_head_ids
from specdec.models.llama_config import LlamaConfig
from specdec.models.rotations import Rotations

_FORWARD_LOCK = threading.Lock()
"""Numba's default threading layer aborts the process if two threads launch kernels at once, and
two forwards at once would only fight over the same cores and memory."""

MAX_KERNEL_ROWS = 64
"""The longest prompt that is not left to BLAS, which packs the weights anew for every product."""


@dataclass(frozen=True, slots=True, eq=False)
class PortableModel:
    """A Llama, or a view of one that leaves layers out.

    Attributes:
        name: as the user knows it.
        llama: what a forward computes with, shared by the views.
        layers: those that are run, in order.
        head_ids: the token ids of the head's rows; None for the whole vocabulary.
    """

    name: str
    llama: Llama
    layers: tuple[int, ...]
    head_ids: NDArray[np.intp] | None

    backend = "portable"
    supports_trees = True
    batch_invariant = True

    @classmethod
    def load(cls, folder: Path, name: str | None = None, progress: Progress = no_progress) -> Self:
        """Open a Hugging Face folder and compile the kernels, so that no run pays for it.

        Raises:
            ModelError: the folder is no Llama this backend can run.
        """
        config = LlamaConfig.load(folder)
        if config.head_dim % 4:
            raise ModelError(
                f"The heads of {folder.name} are {config.head_dim} wide, and the portable backend "
                "takes multiples of 4; the MLX backend (--backend mlx) opens it."
            )
        head_ids = read_head_ids(folder, config.vocab_size)
        weights = LlamaWeights.load(folder, config, head_ids)
        llama = Llama(config, weights, Rotations(config.rope, config.head_dim))
        model = cls(name or folder.name, llama, tuple(range(config.num_layers)), head_ids)
        progress(0, None, COMPILING)
        try:
            model.forward([0], model.new_cache())
        except ValueError as error:  # Numba's, at its first parallel loop
            raise ModelError(
                f"Numba cannot start its threads ({error}); unset NUMBA_THREADING_LAYER, or set "
                "it to workqueue."
            ) from error
        return model

    @property
    def vocab_size(self) -> int:
        return self.llama.config.vocab_size

    @property
    def context_length(self) -> int:
        return self.llama.config.context_length

    def without_middle_layers(self) -> PortableModel:
        skipped = middle_layers(self.llama.config.num_layers)
        layers = tuple(layer for layer in self.layers if layer not in skipped)
        return replace(self, name=f"{self.name}, layers skipped", layers=layers)

    def new_cache(self) -> PortableCache:
        config = self.llama.config
        return PortableCache(len(self.layers), config.num_kv_heads, config.head_dim)

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        num_layers = len(self.layers)
        for layer in layers:
            if layer != AFTER_NORM and not 0 <= layer < num_layers:
                return f"{self.name} runs layers 0 to {num_layers - 1}; it has no layer {layer}."
        return None

    def prefill(
        self, token_ids: Sequence[int], cache: PortableCache, *, inside: Inside | None = None
    ) -> None:
        """Feed tokens for their keys and values only: few of them by the kernels, many by BLAS."""
        ids = np.asarray(token_ids, np.intp)
        inside = Inside() if inside is None else inside
        require(self, inside)
        self._require_room(cache.length + ids.size)
        if numba_kernels() is None or inside.attention or ids.size > MAX_KERNEL_ROWS:
            with _FORWARD_LOCK:
                self.llama.rotations.reach(cache.length + ids.size)
                numpy_forward.prefill(self.llama, self.layers, ids, cache, inside)
        else:
            visible = Visibility.of_chain(cache.length, ids.size)
            self._decode(ids, cache, visible, self.llama.weights.head[:0], inside)

    def forward(
        self,
        token_ids: Sequence[int],
        cache: PortableCache,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones, as `LanguageModel.forward` says."""
        ids = np.asarray(token_ids, np.intp)
        inside = Inside() if inside is None else inside
        if parents is None:
            visible = Visibility.of_chain(cache.length, ids.size)
        else:
            visible = Visibility.of_tree(cache.length, parents, ids.size)
        require(self, inside)
        self._require_room(int(visible.positions.max(initial=-1)) + 1)
        logits = self._decode(ids, cache, visible, self.llama.weights.head, inside)
        return widen(logits, self.head_ids, self.vocab_size)

    def _require_room(self, num_tokens: int) -> None:
        """Refuse positions that the model was not made for."""
        if num_tokens > self.context_length:
            raise ModelError(
                f"{self.name} reads {self.context_length} tokens at most and was given "
                f"{num_tokens}; shorten the prompt or the answer."
            )

    def _decode(
        self,
        ids: NDArray[np.intp],
        cache: PortableCache,
        visible: Visibility,
        head: FloatArray,
        inside: Inside,
    ) -> Logits:
        rows = self.llama.weights.embedding[ids]
        return decode(self.llama, self.layers, rows, cache, visible, head, inside)


def decode(
    llama: Llama,
    layers: Sequence[int],
    rows: FloatArray,
    cache: PortableCache,
    visible: Visibility,
    head: FloatArray,
    inside: Inside,
    entering: FloatArray | None = None,
) -> Logits:
    """Run embedded tokens by the kernels, or by NumPy where these are not at hand.

    Args:
        llama: the weights.
        layers: those that are run, in order.
        rows: the tokens [num_fed, hidden].
        cache: grows by one slot per token.
        visible: which slots each token sees.
        head: rows of the head that are wanted; none where keys and values are all.
        inside: takes one row per token.
        entering: of a feature head, what its first layer reads [num_fed, 2 · hidden].

    Returns:
        Logits [num_fed, num_head_rows].
    """
    with _FORWARD_LOCK:
        llama.rotations.reach(int(visible.positions.max(initial=-1)) + 1)
        kernels = numba_kernels()
        if kernels is None or inside.attention:
            return numpy_forward.decode(llama, layers, rows, cache, visible, inside, entering)
        w, c = llama.weights, llama.config
        cache.reserve(len(rows))
        hidden = np.empty((len(rows), len(inside.layers), c.hidden_size), np.float32)
        logits: Logits = kernels.decode(
            _padded(rows, kernels.BLOCK),
            len(rows),
            np.array(layers, np.intp),
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
            llama.rotations.cosines,
            llama.rotations.sines,
            visible.positions,
            cache.keys,
            cache.values,
            cache.length,
            visible.num_shared,
            visible.tails,
            visible.tail_lengths,
            np.array(inside.layers, np.intp),
            hidden,
            w.entry,
            _padded(np.empty((0, 0), np.float32) if entering is None else entering, kernels.BLOCK),
        )
        inside.add(cache.length, hidden)
        cache.length += len(rows)
    return logits[: len(rows)]


def _padded(rows: FloatArray, block: int) -> FloatArray:
    """Return a copy of the rows with rows of zeros below, up to a multiple of `block`."""
    padded = np.zeros((-(-len(rows) // block) * block, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded


def widen(logits: Logits, head_ids: NDArray[np.intp] | None, vocab_size: int) -> Logits:
    """Spread the logits of a reduced head over the whole vocabulary."""
    if head_ids is None:
        return logits
    wide = np.full((len(logits), vocab_size), -np.inf, np.float32)
    wide[:, head_ids] = logits
    return wide
