"""Models that run on PyTorch through transformers: any architecture, on NVIDIA, Apple and CPU.

A batch is computed by other code than a single token, so that logits agree up to rounding only:
a run says so, and may be told to verify one row at a time. What CUDA and MPS need that the CPU
does not (moving weights, their memory, their errors) stands here, in `torch_load` and in
`torch_devices`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from specdec.errors import ModelError
from specdec.models.base import AFTER_NORM, Inside, Logits, require
from specdec.models.cache import Visibility
from specdec.models.fetch.progress import Progress, no_progress
from specdec.models.llama import read_head_ids
from specdec.models.torch_devices import (
    device_title,
    find_device,
    free_bytes,
    import_torch,
    in_gigabytes,
)
from specdec.models.torch_size import require_memory

if TYPE_CHECKING:
    from specdec.models.torch_network import TorchNetwork
    from specdec.models.torch_trial import Abilities

PREFILL_TOKENS = 256
"""How many tokens are prefilled in one go; between two goes another run gets its turn."""
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

Result = TypeVar("Result")


class TorchCache:
    """The transformers cache of one run."""

    def __init__(self, slots: Any, gather: Callable[[Any, int, Sequence[int]], None]) -> None:
        self.slots = slots
        self._gather = gather
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def truncate(self, length: int) -> None:
        if length < self._length:
            self.gather(length, ())

    def gather(self, start: int, slots: Sequence[int]) -> None:
        self._gather(self.slots, start, slots)
        self._length = start + len(slots)

    def filled(self, count: int) -> None:
        """Take note that `count` slots were filled."""
        self._length += count

    def repair(self) -> None:
        """Drop what a forward that failed half-way has filled."""
        self._gather(self.slots, self._length, ())


class TorchModel:
    """A model on PyTorch, or a view of one that leaves layers out."""

    batch_invariant = False

    def __init__(
        self, network: TorchNetwork, name: str, abilities: Abilities, weights_bytes: int
    ) -> None:
        self._network = network
        self._abilities = abilities
        self._weights_bytes = weights_bytes
        self.name = name
        self.vocab_size = abilities.vocab_size
        self.supports_trees = abilities.takes_trees
        self.context_length = _context_length(network.config, name)

    @classmethod
    def load(
        cls, folder: Path, name: str, device: str = "auto", progress: Progress | None = None
    ) -> TorchModel:
        """Open a Hugging Face folder on a device and try it out.

        Raises:
            ModelError: PyTorch is not installed, there is no such device or not enough memory on
                it, or transformers cannot open, run or roll back the model.
        """
        report = progress or no_progress
        report(0, None, "Starting PyTorch")
        device = find_device(device)
        from specdec.models.torch_load import open_network, quietly  # imports PyTorch
        from specdec.models.torch_trial import try_out

        weights_bytes = require_memory(folder, name, device)

        def opened() -> tuple[TorchNetwork, Abilities]:
            network = open_network(folder, name, device, weights_bytes, report)
            report(0, None, f"Trying {name} out on {device_title(device)}")
            head_ids = read_head_ids(folder, network.config.vocab_size)
            abilities = try_out(network, name)
            if head_ids is not None:
                network = network.with_reduced_head(head_ids)
            return network, abilities

        with quietly():
            network, abilities = _in_memory(opened, name, device, weights_bytes)
        return cls(network, name, abilities, weights_bytes)

    @property
    def backend(self) -> str:
        kind = str(self._network.dtype).removeprefix("torch.")
        return f"torch ({self._network.device}, {kind})"

    def new_cache(self) -> TorchCache:
        from specdec.models.torch_network import gather, new_cache

        return TorchCache(new_cache(), gather)

    def without_middle_layers(self) -> TorchModel:
        name = f"{self.name}, layers skipped"
        model = TorchModel(
            self._network.without_middle_layers(), name, self._abilities, self._weights_bytes
        )
        try:
            model.forward([0], model.new_cache())
        except Exception as error:  # the architecture's own code
            raise ModelError(
                f"Layers of {self.name} cannot be skipped with PyTorch ({error}); choose another "
                "draft than layer-skip."
            ) from error
        return model

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        count = len(self._network.run_layers)
        for layer in layers:
            if layer != AFTER_NORM and not 0 <= layer < count:
                return f"{self.name} runs layers 0 to {count - 1}; it has no layer {layer}."
        return self._abilities.no_attention if attention else None

    def prefill(
        self, token_ids: Sequence[int], cache: TorchCache, *, inside: Inside | None = None
    ) -> None:
        inside = Inside() if inside is None else inside
        require(self, inside)
        self._require_room(cache.length + len(token_ids))
        for start in range(0, len(token_ids), PREFILL_TOKENS):
            chunk = token_ids[start : start + PREFILL_TOKENS]
            self._feed(chunk, cache, partial(self._network.prefill, chunk, cache.slots, inside))

    def forward(
        self,
        token_ids: Sequence[int],
        cache: TorchCache,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones, as `LanguageModel.forward` says."""
        inside = Inside() if inside is None else inside
        require(self, inside)
        visible = None
        if parents is not None:
            if not self.supports_trees:
                raise ModelError(f"{self.name} scores chains only here; feed it each path.")
            visible = Visibility.of_tree(cache.length, parents, len(token_ids))
        positions = range(cache.length, cache.length + len(token_ids))
        last = positions.stop if visible is None else int(visible.positions.max(initial=-1)) + 1
        self._require_room(last)
        logits = self._feed(
            token_ids,
            cache,
            partial(self._network.logits, token_ids, cache.slots, visible, inside),
        )
        head_ids = self._network.head_ids
        if head_ids is None:
            return logits
        wide = np.full((len(logits), self.vocab_size), -np.inf, np.float32)
        wide[:, head_ids] = logits
        return wide

    def _feed(
        self, token_ids: Sequence[int], cache: TorchCache, step: Callable[[], Result]
    ) -> Result:
        done = False
        try:
            network = self._network
            result = _in_memory(step, self.name, network.device, self._weights_bytes)
            done = True
        finally:
            if done:
                cache.filled(len(token_ids))
            else:
                cache.repair()
        return result

    def _require_room(self, num_tokens: int) -> None:
        if num_tokens > self.context_length:
            raise ModelError(
                f"{self.name} reads {self.context_length} tokens at most and was given "
                f"{num_tokens}; shorten the prompt or the answer."
            )


def _context_length(config: Any, name: str) -> int:
    for key in _CONTEXT_NAMES:
        if getattr(config, key, None):
            return int(getattr(config, key))
    raise ModelError(
        f"The config.json of {name} does not say how long a context the model takes; add "
        "max_position_embeddings."
    )


def _in_memory(step: Callable[[], Result], name: str, device: str, weights_bytes: int) -> Result:
    """Return what `step` returns; say with numbers where there was not enough memory for it."""
    try:
        return step()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        free = free_bytes(device)
        room = "" if free is None else f", {in_gigabytes(free)} are free there now"
    raise ModelError(
        f"{name} ran out of memory on {device_title(device)}: its weights take "
        f"{in_gigabytes(weights_bytes)}{room}; shorten the prompt or the answer, end other "
        "programs, or choose a smaller model or another device."
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Say so for CUDA's own error, and for what the CPU and Apple's GPU say in words."""
    words = str(error)
    return (
        isinstance(error, MemoryError | import_torch().OutOfMemoryError)
        or "out of memory" in words
        or "can't allocate memory" in words
    )
