"""A feature head at work: one layer that continues the target's own hidden states (EAGLE-3).

Li et al. 2025, https://arxiv.org/abs/2503.01840. To whoever drafts it is a language model like any
other, which reads the text from its second token on: in the slot of token j + 1 stand its embedding
and a *feature* of token j. Where the target has read token j, the feature is made of its hidden
states; beyond, it is what the head itself put out one place before. What a slot gave out is kept
beside its keys and values, so that chains, trees and rollbacks are those of any model. Slots that
stood on the head's own features are fed anew when the target's states have come: see
`FeatureContext` in `drafters/feature.py`.

It runs on the portable backend's kernels, whatever runs the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.base import MAX_FORWARD_ROWS, Inside, Logits, require
from specdec.models.cache import PortableCache, Visibility
from specdec.models.eagle3 import HeadWeights
from specdec.models.llama import FloatArray, Llama, LlamaWeights
from specdec.models.numpy_forward import DECODE_BLOCK, normalise, project
from specdec.models.portable import decode, widen
from specdec.models.rotations import Rotations

SMALL_ROWS = 8
"""So many rows of the projection at once: OpenBLAS then takes one thread. After a product for
which it took more, the others spin for some 20 ms, and took a fifth of the target's next forward.
"""


class FeatureCache:
    """Keys, values and outputs of the slots fed so far, and the features that are the target's."""

    def __init__(self, slots: PortableCache, hidden_size: int) -> None:
        self.slots = slots
        self.features = np.empty((0, hidden_size), np.float32)
        self._outputs = np.empty((slots.keys.shape[3], hidden_size), np.float32)

    @property
    def length(self) -> int:
        return self.slots.length

    def truncate(self, length: int) -> None:
        self.slots.truncate(length)

    def gather(self, start: int, slots: Sequence[int]) -> None:
        self._outputs[start : start + len(slots)] = self._outputs[list(slots)]
        self.slots.gather(start, slots)

    def keep(self, first: int, outputs: FloatArray) -> None:
        """Keep what the slots from `first` on gave out [num_fed, hidden]."""
        if first + len(outputs) > len(self._outputs):
            grown = np.empty((self.slots.keys.shape[3], outputs.shape[1]), np.float32)
            grown[:first] = self._outputs[:first]
            self._outputs = grown
        self._outputs[first : first + len(outputs)] = outputs

    def feature(self, slot: int, above: int) -> FloatArray:
        """Return the feature that a slot stands on; `above` is the slot of the token before."""
        known = slot < len(self.features)
        return self.features[slot] if known else self._outputs[above]  # type: ignore[no-any-return]


class FeatureHead:
    """A head with the embedding of its target, shared by every run."""

    backend = "portable"
    supports_trees = True
    batch_invariant = True

    def __init__(self, name: str, head: HeadWeights, embedding: FloatArray) -> None:
        """Put a head on a target.

        Args:
            name: as the user knows it.
            head: its weights.
            embedding: the target's [vocab_size, hidden].

        Raises:
            ModelError: the head was not made for such a target.
        """
        self.name = name
        self.head = head
        c = head.config.layers
        embedding = embedding if head.embedding is None else head.embedding
        if embedding.shape[1] != c.hidden_size or len(embedding) <= head.token_ids.max():
            raise ModelError(
                f"{name} was made for a target of width {c.hidden_size} and at least "
                f"{head.token_ids.max() + 1} tokens, not {embedding.shape[1]} and "
                f"{len(embedding)}; choose a head of this target."
            )
        if c.head_dim % 4:
            raise ModelError(f"The heads of {name} are {c.head_dim} wide, no multiple of 4.")
        self.vocab_size = len(embedding)
        self.context_length = c.context_length
        rotations = Rotations(c.rope, c.head_dim)
        self.llama = Llama(c, _llama_weights(head, embedding), rotations)

    def new_cache(self) -> FeatureCache:
        c = self.llama.config
        slots = PortableCache(c.num_layers, c.num_kv_heads, c.head_dim)
        return FeatureCache(slots, c.hidden_size)

    def without_middle_layers(self) -> FeatureHead:
        return self

    def cannot_give(self, layers: Sequence[int], attention: bool) -> str | None:
        if layers or attention:
            return f"{self.name} is a feature head and shows nothing of its inside."
        return None

    def take(self, cache: FeatureCache, hidden: NDArray[np.float32]) -> None:
        """Make features of the target's states [num_tokens, num_aux, width] of further tokens."""
        tensors, states = self.head.tensors, hidden.reshape(len(hidden), -1)
        if states.shape[1] != tensors["fc.weight"].shape[1]:
            raise ModelError(
                f"{self.name} reads {tensors['fc.weight'].shape[1]} numbers of each token's "
                f"states, and the target gives {states.shape[1]}; choose a head of this target."
            )
        if self.head.config.normed_states:
            states = normalise(states, tensors["input_norm.weight"], self.llama.config.norm_eps)
        weight = tensors["fc.weight"]
        parts = [
            project(states, weight[start : start + SMALL_ROWS], DECODE_BLOCK)
            for start in range(0, len(weight), SMALL_ROWS)
        ]
        cache.features = np.concatenate([cache.features, np.concatenate(parts, axis=1)])

    def prefill(
        self, token_ids: Sequence[int], cache: FeatureCache, *, inside: Inside | None = None
    ) -> None:
        """Feed tokens for their keys and values only; they stand on the target's features."""
        require(self, inside)
        for start in range(0, len(token_ids), MAX_FORWARD_ROWS):
            part = token_ids[start : start + MAX_FORWARD_ROWS]
            self._feed(part, range(-1, len(part) - 1), cache, self.llama.weights.head[:0])

    def forward(
        self,
        token_ids: Sequence[int],
        cache: FeatureCache,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> Logits:
        """Feed tokens after the cached ones, as `LanguageModel.forward` says."""
        require(self, inside)
        above = range(-1, len(token_ids) - 1) if parents is None else parents
        logits = self._feed(token_ids, above, cache, self.llama.weights.head)
        return widen(logits, self.head.token_ids, self.vocab_size)

    def _feed(
        self,
        token_ids: Sequence[int],
        parents: Sequence[int],
        cache: FeatureCache,
        head: FloatArray,
    ) -> Logits:
        """Feed tokens as soon as what they stand on is known: a draft, level by level."""
        base = cache.length + len(token_ids) - len(parents)  # the slot of node 0
        first_node = len(parents) - len(token_ids)
        parts: list[Logits] = []
        start = 0
        while start < len(token_ids):
            filled, end = cache.length, start
            features = []
            while end < len(token_ids):
                slot, above = filled + end - start, base + parents[first_node + end]
                if slot >= len(cache.features) and above >= filled:
                    break
                features.append(cache.feature(slot, above))
                end += 1
            visible = Visibility.of_tree(filled, parents[: first_node + end], end - start)
            self._require_room(int(visible.positions.max(initial=-1)) + 1)
            parts.append(self._step(token_ids[start:end], np.array(features), cache, visible, head))
            start = end
        return np.concatenate(parts) if parts else np.empty((0, len(head)), np.float32)

    def _step(
        self,
        token_ids: Sequence[int],
        features: FloatArray,
        cache: FeatureCache,
        visible: Visibility,
        head: FloatArray,
    ) -> Logits:
        """Feed tokens whose features [num_fed, hidden] are known, in one forward."""
        tensors, c = self.head.tensors, self.llama.config
        embedded = self.llama.weights.embedding[np.asarray(token_ids, np.intp)]
        of_token = normalise(embedded, tensors["layers.0.input_layernorm.weight"], c.norm_eps)
        of_feature = normalise(features, tensors["layers.0.hidden_norm.weight"], c.norm_eps)
        outputs = Inside((c.num_layers - 1,))
        first = cache.length
        logits = decode(
            self.llama,
            range(c.num_layers),
            of_feature if self.head.config.normed_residual else features,
            cache.slots,
            visible,
            head,
            outputs,
            np.concatenate([of_token, of_feature], axis=1),
        )
        cache.keep(first, outputs.hidden[:, 0])
        return logits

    def _require_room(self, num_tokens: int) -> None:
        if num_tokens > self.context_length:
            raise ModelError(
                f"{self.name} reads {self.context_length} tokens at most and was given "
                f"{num_tokens}; shorten the prompt or the answer."
            )


def _llama_weights(head: HeadWeights, embedding: FloatArray) -> LlamaWeights:
    """Lay out a head's tensors as the kernels want them."""
    c, tensors = head.config.layers, head.tensors

    def stacked(name: str) -> FloatArray:
        layers = range(c.num_layers)
        return np.stack([tensors[f"layers.{layer}.{name}.weight"] for layer in layers])

    def qkv(layer: int) -> FloatArray:
        names = (f"layers.{layer}.self_attn.{part}_proj.weight" for part in "qkv")
        return np.concatenate([tensors[name] for name in names])

    entry = qkv(0)
    first = np.zeros((len(entry), c.hidden_size), np.float32)  # `entry` stands for it
    return LlamaWeights(
        embedding=embedding,
        attention_norm=stacked("input_layernorm"),
        qkv=np.stack([first, *(qkv(layer) for layer in range(1, c.num_layers))]),
        attention_out=stacked("self_attn.o_proj"),
        ffn_norm=stacked("post_attention_layernorm"),
        gate=stacked("mlp.gate_proj"),
        up=stacked("mlp.up_proj"),
        down=stacked("mlp.down_proj"),
        final_norm=tensors["norm.weight"],
        head=tensors["lm_head.weight"],
        entry=np.ascontiguousarray(entry),
    )
