"""The feature head as it is trained: one layer that reads the teacher's states (EAGLE-3).

Li et al. 2025, https://arxiv.org/abs/2503.01840. At place j the layer reads the embedding of token
j + 1 and a feature of token j, and what comes out of it, normed, predicts token j + 2. The feature
is made of the teacher's states where these are known, and beyond is what the layer itself put out
one place before. Tensors are named as in the "speculators" format (`specdec/models/eagle3.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.llama import FeedForward, Llama, LlamaShape, RMSNorm, rotate

FIRST_GAIN = 0.3
"""The output norm starts so much smaller than the teacher's: confidence is slow to unlearn."""


@dataclass(frozen=True, slots=True)
class Places:
    """Flat places of a batch: row and time of each, and which of the last step's they follow."""

    rows: Tensor  # (places,)
    times: Tensor  # (places,) of the place at which the chain of features began
    follows: Tensor  # (places,) indices into the places of the step before


class FeatureAttention(nn.Module):
    """Grouped-query attention whose inputs are twice as wide as its outputs."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(2 * shape.width, queries, bias=False)
        self.k_proj = nn.Linear(2 * shape.width, keys, bias=False)
        self.v_proj = nn.Linear(2 * shape.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """Turn (…, heads · head width) into (…, heads, head width)."""
        return x.unflatten(-1, (-1, self.shape.head_width))


class FeatureLayer(nn.Module):
    """One layer over [embedding, feature]."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.hidden_norm = RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = FeatureAttention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def joined(self, embedded: Tensor, feature: Tensor) -> Tensor:
        """What queries, keys and values are made of."""
        return torch.cat((self.input_layernorm(embedded), self.hidden_norm(feature)), dim=-1)

    def finish(self, feature: Tensor, mixed: Tensor) -> Tensor:
        """Add what was attended to, then the feed-forward half."""
        x = feature + self.self_attn.o_proj(mixed)
        return x + self.mlp(self.post_attention_layernorm(x))


class FeatureHead(nn.Module):
    """The projection of the states, the layer and the output norm; `scale` tames the states."""

    def __init__(self, shape: LlamaShape, num_aux: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("scale", torch.ones(num_aux * shape.width))
        self.fc = nn.Linear(num_aux * shape.width, shape.width, bias=False)
        self.layers = nn.ModuleList([FeatureLayer(shape)])
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)

    def folder_tensors(self) -> dict[str, Tensor]:
        """Return the weights as a folder holds them: the scale goes into the projection."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        tensors["fc.weight"] /= tensors.pop("scale")
        return tensors

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a folder's weights; the scale stays."""
        own = {name: tensors[name].float() for name in self.state_dict() if name != "scale"}
        own["fc.weight"] = own["fc.weight"] * self.scale
        self.load_state_dict(own | {"scale": self.scale})

    def turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate (…, heads, head width) to `positions` (…)."""
        width = self.shape.head_width
        turns = positions[..., None, None] * self.shape.rope_theta ** (
            -torch.arange(0, width, 2) / width
        )
        turns = torch.cat((turns, turns), dim=-1)
        return rotate(x, turns.cos(), turns.sin())

    def forward(self, embedded: Tensor, hidden: Tensor, places: list[Places]) -> list[Tensor]:
        """Return, for each step, the normed outputs (places, width) at its places.

        Args:
            embedded: (rows, time, width), of tokens 0, 1, 2, …
            hidden: (rows, time, aux · width), the teacher's states of the same tokens.
            places: of the first step, at true features, and of those after, each on the outputs of
                the step before. A place of step k stands k further than where its chain began.
        """
        layer, attention = self.layers[0], self.layers[0].self_attn
        time = embedded.shape[1] - 1
        feature = self.fc(hidden[:, :-1] / self.scale)
        joined = layer.joined(embedded[:, 1:], feature)
        at = torch.arange(time)[None]
        q = self.turned(attention.split(attention.q_proj(joined)), at)
        keys = [self.turned(attention.split(attention.k_proj(joined)), at)]
        values = [attention.split(attention.v_proj(joined))]
        mixed = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, keys[0], values[0])), is_causal=True, enable_gqa=True
        ).transpose(1, 2)
        first = places[0]
        x = layer.finish(
            feature[first.rows, first.times], mixed[first.rows, first.times].flatten(-2)
        )
        outputs = [self.norm(x)]
        for step, place in enumerate(places[1:], start=1):
            feature = x[place.follows]
            where, now = (place.rows, place.times), place.times + step
            joined = layer.joined(embedded[place.rows, now + 1], feature)
            q = self.turned(attention.split(attention.q_proj(joined)), now)
            for kept, new in (
                (keys, self.turned(attention.split(attention.k_proj(joined)), now)),
                (values, attention.split(attention.v_proj(joined))),
            ):
                dense = torch.zeros_like(kept[0])
                kept.append(dense.index_put(where, new))
            x = layer.finish(feature, self.look_back(q, keys, values, place))
            outputs.append(self.norm(x))
        return outputs

    def look_back(
        self, q: Tensor, keys: list[Tensor], values: list[Tensor], place: Places
    ) -> Tensor:
        """Attend from a later step to the true features up to the chain's beginning, and to it.

        Keys and values of later steps lie where their chain began, (rows, time, heads, width).
        """
        rows, time, kv_heads, width = keys[0].shape
        where = (place.rows, place.times)
        # Queries of one key's head side by side, at their chain's beginning.
        dense = torch.zeros(rows, time, *q.shape[1:]).index_put(where, q)
        grouped = dense.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
        scores = grouped.flatten(2, 3) @ keys[0].permute(0, 2, 3, 1) / math.sqrt(width)
        scores = scores.unflatten(2, (-1, time))
        later = torch.arange(time)[None] > torch.arange(time)[:, None]
        scores = scores.masked_fill(later, -torch.inf)
        own = [
            (grouped * key.permute(0, 2, 1, 3)[:, :, None]).sum(-1, keepdim=True) / math.sqrt(width)
            for key in keys[1:]
        ]
        weights = torch.cat((scores, *own), dim=-1).softmax(-1)
        mixed = (weights[..., :time].flatten(2, 3) @ values[0].transpose(1, 2)).unflatten(
            2, (-1, time)
        )
        for index, value in enumerate(values[1:]):
            mixed = mixed + weights[..., time + index, None] * value.transpose(1, 2)[:, :, None]
        return mixed.permute(0, 3, 1, 2, 4).flatten(2)[where]


def from_teacher(teacher: Llama, num_aux: int, layer: int) -> FeatureHead:
    """Make a head of one of the teacher's layers, which reads embedding and feature alike."""
    head = FeatureHead(teacher.shape, num_aux)
    own = teacher.layers[layer].state_dict()
    for name in ("q", "k", "v"):
        weight = own[f"self_attn.{name}_proj.weight"]
        own[f"self_attn.{name}_proj.weight"] = torch.cat((weight, weight), dim=1) / math.sqrt(2)
    own["input_layernorm.weight"] = torch.ones(teacher.shape.width)
    own["hidden_norm.weight"] = torch.ones(teacher.shape.width)
    head.layers[0].load_state_dict(own)
    with torch.no_grad():
        head.norm.weight.copy_(teacher.norm.weight * FIRST_GAIN)
        nn.init.normal_(head.fc.weight, std=0.01)
        head.fc.weight[:, -teacher.shape.width :] += torch.eye(teacher.shape.width)
    return head
