"""An mlx-lm model as it is on the MLX thread: networks, caches and arrays.

Importing this module imports MLX. Do that, and call anything in it, on `MLX_THREAD` only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import llama
from mlx_lm.models.cache import (
    CacheList,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    make_prompt_cache,
    trim_prompt_cache,
)
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.base import Logits, middle_layers
from specdec.models.json_values import Values, read_json
from specdec.models.llama import read_head_ids
from specdec.models.llama_config import KINDS, ROPE_TYPES, LlamaConfig
from specdec.models.mlx_thread import MLX_THREAD
from specdec.models.weight_files import weight_files

MLX_THREAD.end_at_exit(mx.clear_streams)

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True, slots=True, eq=False)
class ReducedHead:
    """A head for some token ids [num_rows] only: hidden states → logits [..., num_rows]."""

    token_ids: NDArray[np.intp]
    project: Callable[[mx.array], mx.array]


@dataclass(frozen=True, slots=True, eq=False)
class MlxNetwork:
    """The network, what its logits are over, and how many tokens it can look back on."""

    model: Any
    vocab_size: int
    context_length: int
    head: ReducedHead | None = None

    @classmethod
    def open(cls, folder: Path) -> MlxNetwork:
        """Load a folder and run one token through it.

        Raises:
            ModelError: mlx-lm cannot open or run it, or its cache cannot be rolled back.
        """
        config = read_json(folder / "config.json")
        model = _load(folder, config)
        if not all(map(_keeps_every_slot, make_prompt_cache(model))):
            raise ModelError(
                f"{folder.name} has a cache that forgets (a sliding window or a recurrent state) "
                "and cannot take rejected tokens back; choose a model with full attention."
            )
        vocab_size = _try_out(model, folder.name)
        network = cls(model, vocab_size, _context_length(folder, config))
        head_ids = read_head_ids(folder, vocab_size)
        return network if head_ids is None else network._with_reduced_head(head_ids)

    def new_cache(self) -> list[Any]:
        """Return an empty mlx-lm cache, one entry per layer."""
        caches: list[Any] = make_prompt_cache(self.model)
        return caches

    def trim(self, caches: list[Any], num_slots: int) -> None:
        """Drop the last `num_slots` slots."""
        trim_prompt_cache(caches, num_slots)

    def prefill(self, token_ids: Sequence[int], caches: list[Any]) -> None:
        """Fill slots; MLX is lazy, so the head is never computed."""
        self.model(_row(token_ids), cache=caches)
        mx.eval([cache.state for cache in caches])

    def logits(self, token_ids: Sequence[int], caches: list[Any]) -> Logits:
        """Fill slots and return the logits [num_fed, vocab_size], in MLX's own memory."""
        if self.head is None:
            return _evaluate(self.model(_row(token_ids), cache=caches))
        logits = np.full((len(token_ids), self.vocab_size), -np.inf, np.float32)
        hidden = self.model.model(_row(token_ids), caches)
        logits[:, self.head.token_ids] = _evaluate(self.head.project(hidden))
        return logits

    def without_middle_layers(self, name: str) -> MlxNetwork:
        """Return a network that shares all weights but leaves out `middle_layers`.

        Raises:
            ModelError: the architecture is not a plain stack of layers.
        """
        layers = list(self.model.layers)
        skipped = middle_layers(len(layers))
        kept = [layer for index, layer in enumerate(layers) if index not in skipped]
        model = _with_layers(self.model, kept, name)
        _try_out(model, f"{name} without layers {skipped.start} to {skipped.stop - 1}")
        return replace(self, model=model)

    def _with_reduced_head(self, token_ids: NDArray[np.intp]) -> MlxNetwork:
        if not isinstance(self.model, llama.Model):
            raise ModelError(
                "Only a Llama can have a reduced head; remove draft_token_ids.npy from the folder "
                "or choose another draft."
            )
        rows = mx.array(token_ids)
        if self.model.args.tie_word_embeddings:
            project = _take_rows(self.model.model.embed_tokens, rows).as_linear
        else:
            project = _take_rows(self.model.lm_head, rows)
        return replace(self, head=ReducedHead(token_ids, project))


def _load(folder: Path, config: Mapping[str, Any]) -> Any:
    settings = _settings(folder, config)
    _refuse_strays(folder)
    try:
        model, _ = load_model(folder, model_config=settings)
    except Exception as error:  # mlx-lm raises whatever the folder's content leads it to
        if isinstance(error.__cause__, ImportError):
            raise ModelError(
                f"mlx-lm knows no architecture {config.get('model_type')!r}, which {folder.name} "
                "has; choose a model of another kind or update mlx-lm."
            ) from error
        raise ModelError(
            f"mlx-lm cannot open {folder} ({type(error).__name__}: {error}); "
            "fetch it again or choose another model."
        ) from error
    return model


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what mlx-lm must be told so that it reads a Llama as transformers does.

    It knows the older names of the rotations only, has other defaults, and passes over the rest.

    Raises:
        ModelError: the configuration asks for what mlx-lm's Llama would quietly not do.
    """
    if config.get("model_type") not in KINDS:
        return _rotary_settings(config)
    llama = LlamaConfig.load(folder, backend="mlx")
    rope = llama.rope
    if rope.attention_factor is not None or not rope.truncate:
        raise ModelError(
            f"{folder / 'config.json'} gives YaRN an attention_factor or no truncation, which "
            "mlx-lm does not obey; choose the portable backend."
        )
    scaling: dict[str, Any] = {"rope_type": rope.rope_type}
    if rope.rope_type == "dynamic":  # stretches nothing within the context
        scaling = {"rope_type": "default"}
    numbers = {name: getattr(rope, name, None) for name in ROPE_TYPES[rope.rope_type]}
    numbers["original_max_position_embeddings"] = rope.original_length
    scaling |= {name: number for name, number in numbers.items() if number is not None}
    if not (rope.mscale and rope.mscale_all_dim):  # of one alone transformers takes no notice
        scaling = {k: v for k, v in scaling.items() if not k.startswith("mscale")}
    return {
        "rope_theta": rope.rope_theta,
        "rope_scaling": scaling,
        "head_dim": llama.head_dim,
        "num_key_value_heads": llama.num_kv_heads,
        "rms_norm_eps": llama.norm_eps,
        "tie_word_embeddings": llama.tied,
        "max_position_embeddings": llama.context_length,
        "sliding_window": None,
        "layer_types": None,
    }


def _rotary_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the older names of what transformers 5 writes as `rope_parameters`."""
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or "rope_theta" not in rope:
        return {}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": rope}


def _refuse_strays(folder: Path) -> None:
    """Refuse files that mlx-lm would read beside those that hold the model.

    Raises:
        ModelError: there is one, or a file of the model is missing.
    """
    files = set(weight_files(folder))
    for stray in sorted(set(folder.glob("model*.safetensors")) - files):
        raise ModelError(
            f"{folder} holds {stray.name} beside the files of its index, and mlx-lm would read it "
            "too; move it away, or choose the portable backend."
        )


def _context_length(folder: Path, config: Mapping[str, Any]) -> int:
    for settings in (config, config.get("text_config") or {}):
        values = Values(folder / "config.json", settings if isinstance(settings, Mapping) else {})
        for key in _CONTEXT_KEYS:
            if values.values.get(key):
                return values.whole(key)
    if config.get("model_type") in KINDS:
        return LlamaConfig.load(folder, backend="mlx").context_length
    raise ModelError(
        f"{folder / 'config.json'} does not say how long a context the model takes; "
        "add max_position_embeddings."
    )


def _keeps_every_slot(cache: Any) -> bool:
    """Say whether a cache can always be trimmed.

    mlx-lm's own `can_trim_prompt_cache` says yes to a sliding window until it is full, which is
    in the middle of a run.
    """
    if isinstance(cache, CacheList):
        return all(map(_keeps_every_slot, cache.caches))
    return isinstance(cache, KVCache | ConcatenateKVCache | QuantizedKVCache)


def _try_out(model: Any, name: str) -> int:
    """Run one token, which also compiles what there is to compile, and return the vocabulary."""
    try:
        logits = _evaluate(model(_row([0]), cache=make_prompt_cache(model)))
    except Exception as error:  # the architecture's own code
        raise ModelError(
            f"mlx-lm cannot run {name} ({type(error).__name__}: {error}); choose another model."
        ) from error
    return int(logits.shape[-1])


def _row(token_ids: Sequence[int]) -> mx.array:
    """Return token ids, of any sequence of any integers, as [1, num_tokens]."""
    return mx.array(np.asarray(token_ids, np.int32)[np.newaxis])


def _evaluate(logits: mx.array) -> Logits:
    """Evaluate logits [1, num_fed, num_rows] of any type and return the first as float32."""
    logits = logits[0].astype(mx.float32)
    mx.eval(logits)
    array: Logits = np.asarray(logits)  # a view
    return array


def _with_layers(module: Any, layers: list[Any], name: str) -> Any:
    """Return a copy of `module` in which the stack of layers, however deep, is `layers`."""
    clone = copy.copy(module)
    if "layers" in clone:
        clone.layers = layers
        return clone
    for inner in ("model", "language_model"):
        if inner in clone:
            clone[inner] = _with_layers(clone[inner], layers, name)
            return clone
    raise ModelError(
        f"Layers of {name} cannot be skipped with MLX; choose another draft than layer-skip."
    )


def _take_rows(layer: Any, rows: mx.array) -> Any:
    """Return a copy of an embedding or a linear layer, quantised or not, with `rows` only."""
    clone = copy.copy(layer)
    clone.update({name: weights[rows] for name, weights in layer.parameters().items()})
    mx.eval(clone.parameters())
    return clone
