"""Toy models whose every distribution is known: the fakes of the suite, at the model boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def prefill(self, token_ids: Sequence[int], cache: ToyCache) -> None:
        self.prefills.append(len(token_ids))
        cache.ids += token_ids

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
        attention: list[Any] | None = None,
    ) -> NDArray[np.float32]:
        assert parents is None or self.supports_trees
        parents = range(-1, len(token_ids) - 1) if parents is None else parents
        paths: list[list[int]] = []
        for token_id, parent in zip(token_ids, parents, strict=True):
            paths.append([*(cache.ids if parent < 0 else paths[parent]), token_id])
        cache.ids += token_ids
        self.num_fed += len(token_ids)
        return np.stack([self.logits_after(path) for path in paths])


class ScriptedRandom:
    """Answers `random()` from a list, then with `rest`."""

    def __init__(self, values: Sequence[float], rest: float = 0.5) -> None:
        self._values = list(values)
        self._rest = rest

    def random(self) -> float:
        return self._values.pop(0) if self._values else self._rest
