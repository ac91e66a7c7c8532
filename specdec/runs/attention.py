"""What the target looked at in one round: its attention weights, by a forward pass made anew.

The pass is made on demand and after the fact, outside every measurement. Nothing of the run needs
to have kept anything for it: the text before the round and the round's tree say it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.errors import ModelError
from specdec.models.base import Inside, LanguageModel, require
from specdec.models.context import CachedContext
from specdec.records import RoundResult

MAX_CELLS = 100_000
"""The most pairs of a token and what it may see, each of which has a weight per layer and head."""


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """The attention weights of one round, and what they are between.

    Attributes:
        round: counted from 0.
        context: the tokens before the round, the prompt first; they fill the first slots.
        num_prompt_tokens: how many of them are the prompt.
        tree: the drafted tokens, which fill the slots after them; without their distributions.
        weights: [num_layers, num_heads, 1 + num_nodes, num_slots], float32. Row 0 is of the last
            token before the tree, row i + 1 of node i; 0 where a token does not see a slot.
    """

    round: int
    context: tuple[int, ...]
    num_prompt_tokens: int
    tree: Draft
    weights: NDArray[np.float32]

    @property
    def num_layers(self) -> int:
        return len(self.weights)

    @property
    def num_heads(self) -> int:
        count: int = self.weights.shape[1]
        return count

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The token of each slot."""
        return (*self.context, *self.tree.token_ids)

    def sees(self, node: int) -> NDArray[np.bool_]:
        """Return the tree mask of a node [num_slots]: the text, its ancestors and itself.

        Node −1 is the last token before the tree.
        """
        seen = np.zeros(len(self.token_ids), bool)
        seen[: len(self.context)] = True
        path = self.tree.path_to(node) if node >= 0 else ()
        seen[[len(self.context) + one for one in path]] = True
        return seen

    def of(self, node: int, layer: int, heads: int | str) -> NDArray[np.float32]:
        """Return what a node gave each slot [num_slots], in one layer.

        Args:
            node: −1 for the last token before the tree.
            layer: counted from 0.
            heads: one of them, counted from 0, or their "mean" or "maximum".
        """
        of_heads = self.weights[layer, :, node + 1]
        if isinstance(heads, int):
            one: NDArray[np.float32] = of_heads[heads]
            return one
        pooled: NDArray[np.float32] = (
            of_heads.mean(axis=0) if heads == "mean" else of_heads.max(axis=0)
        )
        return pooled


def attention_of(
    model: LanguageModel, prompt_ids: Sequence[int], rounds: Sequence[RoundResult], number: int
) -> Attention:
    """Feed a round's tree to the target once more and return what each node looked at.

    Args:
        model: the target of the run.
        prompt_ids: of the run, as the target read them.
        rounds: of the run.
        number: of the round, counted from 0.

    Raises:
        ModelError: the model gives no attention weights, or none for this tree; the round is not
            of this model; or there would be too many weights to keep.
    """
    inside = Inside(attention=True)
    require(model, inside)
    emitted = [token_id for result in rounds[:number] for token_id in result.emitted]
    context = (*prompt_ids, *emitted)
    nodes = rounds[number].candidates
    tree = Draft(
        tuple(one.token_id for one in nodes),
        tuple(one.parent for one in nodes),
        (None,) * len(nodes),
    )
    _check(model, context, tree)
    cached = CachedContext(model)
    cached.prefill(context)  # of what stands before, nobody asks
    cached.score(context, tree, inside)
    rows = slice(-1 - len(tree), None)
    weights = np.stack([of_layer[:, rows] for of_layer in inside.attention_weights])
    return Attention(number, context, len(prompt_ids), tree, weights)


def _check(model: LanguageModel, context: Sequence[int], tree: Draft) -> None:
    token_ids = (*context, *tree.token_ids)
    if not context or not all(0 <= one < model.vocab_size for one in token_ids):
        raise ModelError(
            f"This round holds tokens that {model.name} does not have, so it is not a round of "
            "these weights; open the model that wrote it."
        )
    if len(token_ids) > model.context_length:
        raise ModelError(
            f"The text up to this round is longer than the {model.context_length} tokens that "
            f"{model.name} takes; look at an earlier round."
        )
    if (1 + len(tree)) * len(token_ids) > MAX_CELLS:
        raise ModelError(
            f"{1 + len(tree)} tokens that look at {len(token_ids)} each are more than can be kept "
            f"by layer and head (at most {MAX_CELLS:,} pairs); look at an earlier round."
        )
