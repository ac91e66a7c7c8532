"""Models that run on MLX through mlx-lm: any architecture it knows, quantised ones too.

The default on Apple silicon. On Linux MLX multiplies matrices with the reference BLAS, whose cost
is linear in the tokens fed, so that verifying a draft of 8 costs nine times a single token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from specdec.errors import ModelError
from specdec.models.base import Cache, Inside, Logits, require
from specdec.models.mlx_thread import MLX_THREAD

if TYPE_CHECKING:
    from specdec.models.mlx_network import MlxNetwork

PREFILL_TOKENS = 512
"""How many tokens are prefilled in one go; between two goes another run gets its turn."""

Result = TypeVar("Result")


class MlxCache:
    """The mlx-lm cache of one run; what is dropped is trimmed when the next tokens are fed."""

    def __init__(self, caches: list[Any]) -> None:
        self._caches = caches
        self._filled = 0  # known to the MLX thread only
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def truncate(self, length: int) -> None:
        self._length = min(self._length, length)

    def gather(self, start: int, slots: Sequence[int]) -> None:
        """Keep `slots`; only chains are ever fed, so they follow `start` without a gap."""
        assert list(slots) == list(range(start, start + len(slots)))
        self.truncate(start + len(slots))

    def feed(
        self,
        network: MlxNetwork,
        token_ids: Sequence[int],
        step: Callable[[Sequence[int], list[Any]], Result],
    ) -> Result:
        """Fill a slot per token with `step`, one of the network's."""

        def job() -> Result:
            network.trim(self._caches, self._filled - self._length)
            self._filled = self._length
            result = step(token_ids, self._caches)
            self._filled += len(token_ids)
            return result

        result = MLX_THREAD.run(job)
        self._length += len(token_ids)
        return result


class MlxModel:
    """A model on MLX. Its layers build mask and positions themselves, so drafts are chains."""

    backend = "mlx"
    supports_trees = False
    batch_invariant = False

    def __init__(self, network: MlxNetwork, name: str) -> None:
        self._network = network
        self.name = name
        self.vocab_size = network.vocab_size
        self.context_length = network.context_length

    @classmethod
    def load(cls, folder: Path, name: str) -> MlxModel:
        """Open a Hugging Face folder or one that `mlx_lm.convert` wrote.

        Raises:
            ModelError: MLX is not installed, or mlx-lm cannot open, run or roll back the model.
        """
        return cls(MLX_THREAD.run(lambda: _open(folder)), name)

    def new_cache(self) -> MlxCache:
        return MlxCache(MLX_THREAD.run(self._network.new_cache))

    def without_middle_layers(self) -> MlxModel:
        network = MLX_THREAD.run(lambda: self._network.without_middle_layers(self.name))
        return MlxModel(network, f"{self.name}, layers skipped")

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        if not layers and not attention:
            return None
        return (
            "The MLX backend gives neither hidden states nor attention weights; "
            "choose the portable backend."
        )

    def prefill(
        self, token_ids: Sequence[int], cache: Cache, *, inside: Inside | None = None
    ) -> None:
        require(self, inside)
        for start in range(0, len(token_ids), PREFILL_TOKENS):
            chunk = token_ids[start : start + PREFILL_TOKENS]
            self._feed(chunk, cache, self._network.prefill)

    def forward(
        self,
        token_ids: Sequence[int],
        cache: Cache,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed a chain of tokens and return the logits [num_fed, vocab_size] of each.

        Args:
            token_ids: the tokens to feed.
            cache: grows by one slot per token.
            parents: none, or those of a chain.
            inside: must ask for nothing; mlx-lm does not give its inner states out.

        Raises:
            ModelError: a tree or inner states were asked for, or MLX failed.
        """
        if parents is not None and any(after - before != 1 for before, after in pairwise(parents)):
            raise ModelError("The MLX backend scores chains only, not trees; feed it each path.")
        require(self, inside)
        return self._feed(token_ids, cache, self._network.logits)

    def _feed(
        self,
        token_ids: Sequence[int],
        cache: Cache,
        step: Callable[[Sequence[int], list[Any]], Result],
    ) -> Result:
        assert isinstance(cache, MlxCache)
        try:
            return cache.feed(self._network, token_ids, step)
        except RuntimeError as error:  # out of memory, a failed GPU command
            raise ModelError(
                f"MLX stopped while running {self.name} ({error}); "
                "choose a smaller model or a shorter prompt."
            ) from error


def _open(folder: Path) -> MlxNetwork:
    try:
        from specdec.models.mlx_network import MlxNetwork  # imports MLX, here on its thread
    except ImportError as error:
        raise ModelError(
            f"The MLX backend is not installed ({error}); run: pip install mlx-lm "
            "(on Linux: pip install 'mlx[cpu]' mlx-lm), or choose the portable backend."
        ) from error
    return MlxNetwork.open(folder)
