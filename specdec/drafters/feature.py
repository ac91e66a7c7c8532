"""A feature head drafts: it reads the target's own hidden states (EAGLE-3, Li et al. 2025).

https://arxiv.org/abs/2503.01840. What the target has accepted is read once more, on its true
states; from there on the head goes on by itself. Chains and trees are drafted as by any draft
model, so the law of the output is the target's for the same reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, Hidden
from specdec.drafters.context import DraftContext
from specdec.drafters.model import ModelDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.models.base import Logits
from specdec.models.context import CachedContext
from specdec.models.feature_head import FeatureCache, FeatureHead
from specdec.targets.base import Wanted


def make_feature_drafter(
    head: FeatureHead, num_target_layers: int, shape: str | None = None
) -> Drafter:
    """Make `head` a drafter of chains, or of trees of a shape as `TreeDrafter` takes it."""
    aux = head.head.config.aux_layers(num_target_layers)
    chain = FeatureDrafter(head, Wanted(tuple(layer - 1 for layer in aux)))
    if shape is None:
        return chain
    return TreeDrafter(head, shape, chain.name, chain.open_context, chain.wants)


class FeatureDrafter(ModelDrafter):
    """Draw a chain of tokens, one step of the head each."""

    def __init__(self, head: FeatureHead, wants: Wanted) -> None:
        super().__init__(head)
        self.head = head
        self._wants = wants

    @property
    def wants(self) -> Wanted:
        return self._wants

    def open_context(self, prompt: Sequence[int]) -> FeatureContext:
        return FeatureContext(self.head)


class FeatureContext(DraftContext):
    """The head's cache of one run; it reads the prompt when the target's states of it are there."""

    def __init__(self, head: FeatureHead) -> None:
        self._head = head
        self._cached = CachedContext(head)

    def read(self, context: Sequence[int], hidden: Hidden | None = None) -> list[int]:
        """Take the states of the tokens that the target has read since the last call."""
        cache = self._cached.cache
        assert isinstance(cache, FeatureCache)
        assert hidden is not None
        known = len(cache.features)
        if len(hidden) > known:
            self._cached.forget(known)  # those slots stood on the head's own features
            self._head.take(cache, hidden[known:])
        return list(context)

    def room(self, own: Sequence[int]) -> int:
        """Return how many tokens may be drafted: none behind a single one, which has no states."""
        return super().room(own) if len(own) > 1 else 0

    def score(self, own: Sequence[int], tree: Draft | None = None) -> Logits:
        return self._cached.score(own[1:], tree)
