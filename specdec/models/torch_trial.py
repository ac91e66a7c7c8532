"""What a model can do here, found out by trying it on a few tokens when it is opened.

Nothing is believed of an architecture: rollback, trees in one pass and attention weights are
compared with the same tokens fed without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from specdec.errors import ModelError
from specdec.models.base import Inside, Logits
from specdec.models.cache import Visibility
from specdec.models.torch_masks import sees_trees
from specdec.models.torch_network import TorchNetwork, gather, new_cache

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.1}
"""By how much logits may differ, relative to the largest, where only rounding does."""
_NUM_CONTEXT = 5
_PARENTS = (-1, -1, 0, 1, 1)
"""A tree of two roots: the path to its last node passes the first root and its child by."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What was found: the width of its logits, whether trees go through it in one pass, and why
    it gives no attention weights (None where it does)."""

    vocab_size: int
    takes_trees: bool
    no_attention: str | None


def try_out(network: TorchNetwork, name: str) -> Abilities:
    """Feed a few tokens in every way that the backend will.

    Raises:
        ModelError: the model does not run, or its cache cannot be rolled back.
    """
    ids = _some_ids(network.config.vocab_size)
    try:
        plain = _chain(network, ids)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the architecture's own code
        raise ModelError(
            f"transformers cannot run {name} ({type(error).__name__}: {error}); choose another "
            "model."
        ) from error
    if not _rolls_back(network, ids, plain):
        raise ModelError(
            f"{name} keeps a state that cannot take rejected tokens back; choose a model with "
            "attention in every layer."
        )
    return Abilities(plain.shape[1], _takes_trees(network, ids), _attention_refusal(network, ids))


def _some_ids(vocab_size: int) -> list[int]:
    """Return ten ids that are no special tokens of most vocabularies, all different."""
    count = _NUM_CONTEXT + len(_PARENTS)
    first = vocab_size // 3
    return [(first + 7 * index) % vocab_size for index in range(count)]


def _chain(network: TorchNetwork, token_ids: Sequence[int]) -> Logits:
    return network.logits(token_ids, new_cache(), None, Inside())


def _agree(network: TorchNetwork, rows: Logits, expected: Logits, wrong: Logits) -> bool:
    """Say whether `rows` are `expected` but for rounding, and far from what would be `wrong`."""
    error = np.abs(rows - expected).max()
    scale = max(1.0, np.abs(expected).max())
    apart = np.abs(wrong - expected).max()
    return bool(error <= _TOLERANCE[network.dtype] * scale and error <= apart / 4)


def _rolls_back(network: TorchNetwork, ids: list[int], plain: Logits) -> bool:
    """Feed other tokens, take them back, and see whether the right ones give what they did."""
    cache, kept = new_cache(), 3
    try:
        network.logits([*ids[:kept], *ids[:2:-1]], cache, None, Inside())
        if cache.get_seq_length() != len(ids):
            return False
        gather(cache, kept, ())
        rows = network.logits(ids[kept:], cache, None, Inside())
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    mixed = [*ids[:kept], *ids[:2:-1], *ids[kept:]]
    return _agree(network, rows, plain[kept:], _chain(network, mixed)[len(ids) :])


def _takes_trees(network: TorchNetwork, ids: list[int]) -> bool:
    """Feed a tree after a context in two parts, and compare every path with the same as a chain."""
    if not sees_trees(network.config):
        return False
    context, nodes, cache = ids[:_NUM_CONTEXT], ids[_NUM_CONTEXT:], new_cache()
    try:
        network.logits(context, cache, None, Inside())
        rows = []
        for start, end in ((0, 3), (3, len(nodes))):
            visible = Visibility.of_tree(cache.get_seq_length(), _PARENTS[:end], end - start)
            rows.append(network.logits(nodes[start:end], cache, visible, Inside()))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the architecture's own code takes no such mask, in its own way
        return False
    tree = np.concatenate(rows)
    as_chain = _chain(network, ids)[_NUM_CONTEXT:]
    for path in ((0, 2), (1, 3), (1, 4)):
        expected = _chain(network, [*context, *(nodes[node] for node in path)])[_NUM_CONTEXT:]
        if not _agree(network, tree[list(path)], expected, as_chain[list(path)]):
            return False
    gather(cache, _NUM_CONTEXT, [_NUM_CONTEXT + 1, _NUM_CONTEXT + 4])
    after = network.logits(ids[:1], cache, None, Inside())
    accepted = [*context, nodes[1], nodes[4], ids[0]]
    return _agree(network, after, _chain(network, accepted)[-1:], as_chain[-1:])


def _attention_refusal(network: TorchNetwork, ids: list[int]) -> str | None:
    """Say why the model gives no attention weights: every layer must, one row for each token."""
    inside = Inside((), attention=True)
    try:
        network.logits(ids[:3], new_cache(), None, inside)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the architecture's own code
        return f"transformers gives no attention weights of this model ({type(error).__name__})."
    weights = inside.attention_weights
    if len(weights) != len(network.run_layers) or any(w.shape[1:] != (3, 3) for w in weights):
        return "transformers gives no attention weights of this model's layers."
    return None
