"""A transformers model as the torch backend runs it: feeding, masks, inner states, views.

Importing this module imports PyTorch, which is optional and takes seconds; `torch_model` does so
when a model is opened.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.cache_utils import DynamicCache

from specdec.errors import ModelError
from specdec.models.base import AFTER_NORM, Inside, Logits, middle_layers
from specdec.models.cache import Visibility
from specdec.models.torch_masks import tree_masks

FloatArray = NDArray[np.float32]


def new_cache() -> DynamicCache:
    """Return an empty cache that keeps every slot, of sliding windows too.

    A layer whose window slides would forget what a rejected token pushed out; here the mask alone
    hides what lies outside the window, and the cache can always be rolled back.
    """
    return DynamicCache()


def gather(cache: DynamicCache, start: int, slots: Sequence[int]) -> None:
    """Keep the slots before `start`, then `slots`, and drop the rest."""
    chain = list(slots) == list(range(start, start + len(slots)))
    kept = [*range(start), *slots]
    for layer in cache.layers:
        if not layer.is_initialized:
            continue  # a layer that is left out
        if chain:
            layer.keys = layer.keys[..., : len(kept), :]
            layer.values = layer.values[..., : len(kept), :]
        else:
            indices = torch.tensor(kept, device=layer.keys.device)
            layer.keys = layer.keys.index_select(-2, indices)
            layer.values = layer.values.index_select(-2, indices)


class _Skipped(nn.Module):  # type: ignore[misc]  # PyTorch's types are not read
    """Stands where a layer was left out, so that the others keep their numbers."""

    def __init__(self, gives_tuple: bool) -> None:
        super().__init__()
        self._gives_tuple = gives_tuple

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, None, None) if self._gives_tuple else hidden_states


@dataclass(frozen=True, slots=True, eq=False)
class TorchNetwork:
    """A causal language model of transformers, or a view of one that leaves something out.

    Attributes:
        module: the model; views share its weights.
        layers_name: where in it the list of its layers is.
        device: where it is, as PyTorch names it.
        lock: one forward at a time; views share it, since the way attention is computed is set
            on the configuration that they share.
        skipped: the layers that are not run.
        head_ids: the token ids of the head's rows; None for the whole vocabulary.
    """

    module: Any
    layers_name: str
    device: str
    lock: threading.Lock
    skipped: range = range(0)
    head_ids: NDArray[np.intp] | None = None

    @classmethod
    def of(cls, module: Any, device: str) -> TorchNetwork:
        """Wrap a model that stands on `device`.

        Raises:
            ModelError: it is no plain stack of layers.
        """
        count = module.config.get_text_config().num_hidden_layers
        for name, part in module.named_modules():
            if isinstance(part, nn.ModuleList) and len(part) == count:
                return cls(module, name, device, threading.Lock())
        raise ModelError(
            f"A {module.config.model_type} is no stack of layers that the torch backend knows; "
            "choose another model."
        )

    @property
    def config(self) -> Any:
        return self.module.config.get_text_config()

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.module.dtype
        return dtype

    @property
    def run_layers(self) -> list[int]:
        return [i for i in range(self.config.num_hidden_layers) if i not in self.skipped]

    # -- feeding ---------------------------------------------------------------------------------

    def prefill(self, token_ids: Sequence[int], cache: DynamicCache, inside: Inside) -> None:
        """Fill slots with a chain; the head is computed only where inner states are wanted."""
        if inside.layers or inside.attention:
            self.logits(token_ids, cache, None, inside)
            return
        with self.lock, torch.inference_mode():
            self._call(self.module.base_model, token_ids, cache)

    def logits(
        self,
        token_ids: Sequence[int],
        cache: DynamicCache,
        visible: Visibility | None,
        inside: Inside,
    ) -> Logits:
        """Fill slots and return the logits [num_fed, num_head_rows] in float32.

        `visible` says which slots the tokens of a tree see; None for a chain.
        """
        first = cache.get_seq_length()
        with self.lock, torch.inference_mode(), self._watched(inside) as (states, options):
            if visible is not None:
                num_slots = first + len(token_ids)
                masks = tree_masks(visible, num_slots, self.config, self.dtype, self.device)
                positions = torch.as_tensor(visible.positions, device=self.device)[None]
                options |= {"attention_mask": masks, "position_ids": positions}
            output = self._call(self.module, token_ids, cache, **options)
            logits = _to_numpy(output.logits[0])
            if inside.layers or inside.attention:
                self._show(inside, first, states, output)
        return logits

    def _call(
        self, module: Any, token_ids: Sequence[int], cache: DynamicCache, **options: Any
    ) -> Any:
        row = torch.as_tensor(np.asarray(token_ids, np.int64), device=self.device)[None]
        options[_cache_argument(module)] = cache
        return module(input_ids=row, use_cache=True, return_dict=True, **options)

    # -- inner states ----------------------------------------------------------------------------

    @contextmanager
    def _watched(
        self, inside: Inside
    ) -> Iterator[tuple[dict[int, torch.Tensor], dict[str, object]]]:
        """Catch the states that `inside` asks for, by its layers; yield options for the call too.

        Attention weights exist only where they are computed step by step ("eager").
        """
        states: dict[int, torch.Tensor] = {}
        options: dict[str, object] = {}
        run_layers = self.run_layers
        with ExitStack() as stack:
            for layer in inside.layers:
                if layer == AFTER_NORM:
                    head = self.module.get_output_embeddings()
                    hook = head.register_forward_pre_hook(_Keep(states, layer).before)
                else:
                    module = self.module.get_submodule(self.layers_name)[run_layers[layer]]
                    hook = module.register_forward_hook(_Keep(states, layer).after)
                stack.callback(hook.remove)
            if inside.attention:
                stack.enter_context(self._eager())
                options["output_attentions"] = True
            yield states, options

    @contextmanager
    def _eager(self) -> Iterator[None]:
        usual = self.module.config._attn_implementation
        self.module.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.module.set_attn_implementation(usual)

    def _show(
        self, inside: Inside, first: int, states: dict[int, torch.Tensor], output: Any
    ) -> None:
        attention = []
        if inside.attention:
            given = [weights for weights in output.attentions if weights is not None]
            attention = [_to_numpy(weights[0]) for weights in given]  # a skipped layer has none
        hidden = [_to_numpy(states[layer][0]) for layer in inside.layers]
        rows = output.logits.shape[1]
        stacked = np.stack(hidden, axis=1) if hidden else np.empty((rows, 0, 0), np.float32)
        inside.add(first, stacked, attention)

    # -- views -----------------------------------------------------------------------------------

    def without_middle_layers(self) -> TorchNetwork:
        """Return a network that shares all weights but leaves out `middle_layers`."""
        layers = self.module.get_submodule(self.layers_name)
        skipped = middle_layers(len(layers))
        gives_tuple = self._layers_give_tuples(layers[0])
        kept = nn.ModuleList(
            _Skipped(gives_tuple) if index in skipped else layer
            for index, layer in enumerate(layers)
        )
        module = _with_part(self.module, self.layers_name.split("."), kept)
        return replace(self, module=module, skipped=skipped)

    def _layers_give_tuples(self, layer: nn.Module) -> bool:
        """Feed one token to see what a layer gives: its state, or a tuple that begins with it."""
        given: list[Any] = []
        hook = layer.register_forward_hook(lambda _, __, output: given.append(output))
        try:
            self.prefill([0], new_cache(), Inside())
        finally:
            hook.remove()
        return isinstance(given[0], tuple)

    def with_reduced_head(self, head_ids: NDArray[np.intp]) -> TorchNetwork:
        """Return a network that shares all weights but computes logits for some tokens only."""
        head = self.module.get_output_embeddings()
        rows = torch.as_tensor(head_ids, device=self.device)
        reduced = nn.Linear(head.in_features, len(head_ids), head.bias is not None, device="meta")
        reduced.weight = nn.Parameter(head.weight.detach()[rows], requires_grad=False)
        if head.bias is not None:
            reduced.bias = nn.Parameter(head.bias.detach()[rows], requires_grad=False)
        name = next(name for name, part in self.module.named_modules() if part is head)
        module = _with_part(self.module, name.split("."), reduced)
        return replace(self, module=module, head_ids=head_ids)


class _Keep:
    """Hooks that keep what goes into a module, or what comes out, as the state of `layer`."""

    def __init__(self, states: dict[int, torch.Tensor], layer: int) -> None:
        self._states = states
        self._layer = layer

    def before(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._states[self._layer] = inputs[0]

    def after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._states[self._layer] = output[0] if isinstance(output, tuple) else output


def _cache_argument(module: Any) -> str:
    """Return what a model calls its cache; the name changed in transformers 5."""
    named = inspect.signature(module.forward).parameters
    return "cache" if "cache" in named else "past_key_values"


def _with_part(module: nn.Module, path: Sequence[str], part: nn.Module) -> nn.Module:
    """Return a copy of `module` that shares everything but the part at `path`."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    name, *rest = path
    inner = module.get_submodule(name)
    clone._modules[name] = _with_part(inner, rest, part) if rest else part
    return clone


def _to_numpy(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.to(torch.float32).cpu().numpy()
    return array
