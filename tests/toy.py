"""Toy models whose every distribution is known: the fakes of the suite, at the model boundary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.models.base import MAX_FORWARD_ROWS, Inside, require

VOCAB_SIZE = 6


class ToyCache:
    """Remembers the fed tokens themselves."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self.ids)

    def truncate(self, length: int) -> None:
        del self.ids[length:]

    def gather(self, start: int, slots: Sequence[int]) -> None:
        self.ids[start:] = [self.ids[slot] for slot in slots]


class ToyModel:
    """A language model whose logits are a fixed random function of the last two tokens.

    `noise` moves it away from the toy model of the same `seed`: a draft of tunable quality.
    """

    backend = "toy"
    batch_invariant = True
    context_length = 512

    def __init__(
        self,
        seed: int = 0,
        noise: float = 0.0,
        *,
        vocab_size: int = VOCAB_SIZE,
        supports_trees: bool = True,
    ) -> None:
        self.name = f"toy-{seed}"
        self.vocab_size = vocab_size
        self.supports_trees = supports_trees
        self.num_fed = 0
        rng = np.random.default_rng(seed)
        shape = (vocab_size + 1, vocab_size, vocab_size)
        self.table = 1.5 * rng.normal(size=shape) + noise * rng.normal(size=shape)
        self.prefills: list[int] = []

    def new_cache(self) -> ToyCache:
        return ToyCache()

    def without_middle_layers(self) -> ToyModel:
        return self

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        return "A toy pays no attention." if attention else None

    def prefill(
        self, token_ids: Sequence[int], cache: ToyCache, *, inside: Inside | None = None
    ) -> None:
        require(self, inside)
        self.prefills.append(len(token_ids))
        cache.ids += token_ids
        if inside is not None:
            ends = range(cache.length - len(token_ids), cache.length)
            self._show([cache.ids[: end + 1] for end in ends], inside, ends.start)

    def logits_after(self, context: Sequence[int]) -> NDArray[np.float32]:
        before = context[-2] if len(context) > 1 else self.vocab_size
        row: NDArray[np.float32] = self.table[before, context[-1]].astype(np.float32)
        return row

    def forward(
        self,
        token_ids: Sequence[int],
        cache: ToyCache,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> NDArray[np.float32]:
        assert parents is None or self.supports_trees
        assert len(token_ids) <= MAX_FORWARD_ROWS
        require(self, inside)
        parents = range(-1, len(token_ids) - 1) if parents is None else parents
        first = cache.length
        cache.ids += token_ids
        before, nodes = cache.ids[: -len(parents)], cache.ids[-len(parents) :]
        paths: list[list[int]] = []
        for token_id, parent in zip(nodes, parents, strict=True):
            paths.append([*(before if parent < 0 else paths[parent]), token_id])
        self.num_fed += len(token_ids)
        fed = paths[-len(token_ids) :]
        if inside is not None:
            self._show(fed, inside, first)
        return np.stack([self.logits_after(path) for path in fed])

    def _show(self, paths: Sequence[Sequence[int]], inside: Inside, first: int) -> None:
        """Give the layer, the position and the last two tokens for hidden states."""
        states = [
            [[layer, len(path), *[-1, *path][-2:]] for layer in inside.layers] for path in paths
        ]
        shape = (len(paths), len(inside.layers), 4)
        inside.add(first, np.array(states, np.float32).reshape(shape))


class ScriptedRandom:
    """Answers `random()` from a list, then with `rest`."""

    def __init__(self, values: Sequence[float], rest: float = 0.5) -> None:
        self._values = list(values)
        self._rest = rest

    def random(self) -> float:
        return self._values.pop(0) if self._values else self._rest
