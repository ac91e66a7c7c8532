"""Which slots the tokens of a tree see, as the masks that transformers' models take.

A model of one kind of layer takes one mask; one that mixes kinds (full and sliding attention)
takes one for each, by the name its configuration gives the kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specdec.models.cache import Visibility

FULL, SLIDING = "full_attention", "sliding_attention"


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Return the kinds of a model's layers by its text configuration; none where all are alike."""
    return tuple(sorted(set(getattr(config, "layer_types", None) or ())))


def sees_trees(config: Any) -> bool:
    """Say whether masks can be made for every kind of layer."""
    return set(layer_kinds(config)) <= {FULL, SLIDING}


def tree_masks(
    visible: Visibility, num_slots: int, config: Any, dtype: torch.dtype, device: str
) -> Any:
    """Return what `attention_mask` takes: a mask [1, 1, num_fed, num_slots], or one for each kind.

    Masks are added to the attention scores: 0 where a token sees a slot, else the lowest number.
    """
    window = getattr(config, "sliding_window", None)
    kinds = layer_kinds(config)
    if not kinds:
        return _mask(_seen(visible, num_slots, window), dtype, device)
    windows = {FULL: None, SLIDING: window}
    return {kind: _mask(_seen(visible, num_slots, windows[kind]), dtype, device) for kind in kinds}


def _seen(visible: Visibility, num_slots: int, window: int | None) -> NDArray[np.bool_]:
    """Return [num_fed, num_slots]: which slots each token sees, at most `window` positions back."""
    seen = np.zeros((len(visible.positions), num_slots), np.bool_)
    for row, (position, tail, length) in enumerate(
        zip(visible.positions, visible.tails, visible.tail_lengths, strict=True)
    ):
        oldest = 0 if window is None else max(0, position - window + 1)
        seen[row, oldest : visible.num_shared] = True
        seen[row, tail[max(0, oldest - visible.num_shared) : length]] = True
    return seen


def _mask(seen: NDArray[np.bool_], dtype: torch.dtype, device: str) -> torch.Tensor:
    hidden = torch.from_numpy(~seen).to(device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]
