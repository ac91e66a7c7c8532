"""The folder of a feature head, as vLLM loads it: `config.json` and `model.safetensors`.

Read from vLLM's loader (`model_executor/models/llama_eagle3.py` and
`transformers_utils/configs/speculators`) and from the classes of the "speculators" project
(`models/eagle3`), which write these folders:

- `speculators_model_type: "eagle3"`; `transformer_layer_config` describes the head's own layers in
  the words of a Llama and leaves out what is transformers' default; `draft_vocab_size`;
  `norm_before_residual` (true where it is missing, as vLLM has it); `norm_before_fc` puts an
  RMSNorm `input_norm` over the joined states; `speculators_config.verifier` names the target.
- `eagle_aux_hidden_state_layer_ids` counts layers that have been run: id n is the residual stream
  that enters layer n, counted from 0, `hidden_states[n]` of transformers. Without it vLLM takes
  2, half of the target's layers, and all but three.
- `fc` makes one feature of these states side by side. The first layer has queries, keys and
  values over [`input_layernorm` of the embedding, `hidden_norm` of the feature] and adds what it
  computes to the feature (to the normed one with `norm_before_residual`). Further layers are plain.
  What comes out of the last one is the next place's feature, before `norm`; `norm` and `lm_head`
  give the logits.
- At a place stand the feature of token j and the embedding of token j + 1: the logits are of token
  j + 2. Rotary positions count places.
- `d2t` [draft_vocab_size] holds offsets: row i is token i + d2t[i]. `t2d` [vocab_size] marks the
  same tokens. Without `d2t` the rows are the vocabulary. `embed_tokens` is the target's where it
  is left out.

The older form (Li et al. 2025, https://arxiv.org/abs/2503.01840) has the layer's numbers in
`config.json` itself, calls the layer `midlayer`, adds to the feature as it is, and may name the
layers in `eagle_config`. Pickled weights are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.models.json_values import Values, read_json
from specdec.models.llama import EMBEDDING, HEAD, expected_tensors
from specdec.models.llama_config import LlamaConfig
from specdec.models.weight_files import DTYPES, Stored, stored_tensors

FloatArray = NDArray[np.float32]

MODEL_TYPE = "eagle3"
_OLD_ARCHITECTURES = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "LlamaForCausalLMEagle")
_LLAMA_DEFAULTS: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
"""What transformers' `LlamaConfig` means where such a number is left out (release 5.0)."""
_DTYPES = (*DTYPES, "I64", "I32", "BOOL")
_ENTRY = tuple(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
"""What reads the embedding and the feature side by side."""
_NOT_READ = ("fc_norm", "norm_output", "target_hidden_size")


def is_feature_head(folder: Path) -> bool:
    """Say whether `config.json` of the folder describes a feature head."""
    try:
        raw = read_json(folder / "config.json")
    except ModelError:
        return False  # said by whoever opens it
    architectures = raw.get("architectures")
    old = isinstance(architectures, list) and any(n in architectures for n in _OLD_ARCHITECTURES)
    return raw.get("speculators_model_type") == MODEL_TYPE or (old and "draft_vocab_size" in raw)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The numbers of a feature head.

    Attributes:
        layers: of its own layers.
        num_rows: of its output.
        aux: how many of the target's layers have been run where each state is taken; None where
            the folder does not say.
        normed_residual: whether the layer adds to the normed feature.
        normed_states: whether the states are normed together before they are made a feature.
    """

    layers: LlamaConfig
    num_rows: int
    aux: tuple[int, ...] | None
    normed_residual: bool
    normed_states: bool

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `config.json`.

        Raises:
            ModelError: it is broken, or asks for something that is not known here.
        """
        file = folder / "config.json"
        raw = read_json(file)
        values = Values(file, raw)
        new = raw.get("speculators_model_type") == MODEL_TYPE
        layer_config = raw.get("transformer_layer_config") if new else raw
        if not isinstance(layer_config, dict):
            raise ModelError(f"{file} has no transformer_layer_config.")
        for name in _NOT_READ:
            hidden_size = layer_config.get("hidden_size", _LLAMA_DEFAULTS["hidden_size"])
            if raw.get(name) not in (None, False, hidden_size):
                raise ModelError(
                    f"{folder.name} has {name} = {raw[name]!r}, which is not known here; choose "
                    "another head."
                )
        layers = LlamaConfig.read(file, {**_LLAMA_DEFAULTS, **layer_config})
        return cls(
            layers=layers,
            num_rows=values.whole("draft_vocab_size", layers.vocab_size),
            aux=_read_aux(raw, folder),
            normed_residual=values.flag("norm_before_residual", new),
            normed_states=values.flag("norm_before_fc", False),
        )

    def aux_layers(self, num_target_layers: int) -> tuple[int, ...]:
        """Return where in a target of so many layers the states are taken, vLLM's by default."""
        return self.aux or (2, num_target_layers // 2, num_target_layers - 3)


def _read_aux(raw: Mapping[str, Any], folder: Path) -> tuple[int, ...] | None:
    old = raw.get("eagle_config")
    given = raw.get("eagle_aux_hidden_state_layer_ids")
    if given is None and isinstance(old, dict):
        given = old.get("eagle_aux_hidden_state_layer_ids")
    if not given:
        return None
    if not isinstance(given, list) or not all(type(n) is int and n >= 0 for n in given):
        raise ModelError(
            f"{folder.name} gives eagle_aux_hidden_state_layer_ids as {given!r}, which are no "
            "numbers of layers."
        )
    if 0 in given:
        raise ModelError(
            f"{folder.name} reads the target's embedding as a hidden state, which is not known "
            "here; choose another head."
        )
    return tuple(given)


@dataclass(frozen=True, slots=True, eq=False)
class HeadWeights:
    """The tensors of a feature head in float32, named as in `LlamaWeights` where they are the same.

    Attributes:
        config: their numbers.
        tensors: by name, without "model." before it, `midlayer` as `layers.0`.
        token_ids: of the rows of `lm_head`, ascending or not.
        embedding: [vocab_size, hidden]; None where it is the target's.
    """

    config: HeadConfig
    tensors: Mapping[str, FloatArray]
    token_ids: NDArray[np.intp]
    embedding: FloatArray | None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder.

        Raises:
            ModelError: a tensor is missing, has the wrong shape, or is not known.
        """
        config = HeadConfig.load(folder)
        read = {_name(name): _read(stored) for name, stored in stored_tensors(folder).items()}
        offsets, embedding = read.pop("d2t", None), read.pop("embed_tokens.weight", None)
        read.pop("t2d", None)
        known = set()
        for name, shape in _shapes(config, read):
            if name not in read:
                raise ModelError(f"{folder} lacks {name}; it is no whole feature head.")
            if read[name].shape != shape:
                raise ModelError(f"{name} in {folder} has shape {read[name].shape}, not {shape}.")
            known.add(name)
        if unknown := sorted(read.keys() - known):
            raise ModelError(f"{folder} holds {unknown[0]}, which is not known here.")
        return cls(
            config,
            {name: np.ascontiguousarray(t, np.float32) for name, t in read.items()},
            _token_ids(offsets, config, folder),
            None if embedding is None else np.ascontiguousarray(embedding, np.float32),
        )


def _read(stored: Stored) -> NDArray[Any]:
    if stored.dtype not in _DTYPES:
        raise ModelError(
            f"{stored.file} holds tensors stored as {stored.dtype}, which a feature head's are "
            f"not here (they are {', '.join(_DTYPES)}); choose the same head in bfloat16."
        )
    return stored.read()


def _name(name: str) -> str:
    return name.removeprefix("model.").replace("midlayer.", "layers.0.")


def _shapes(
    config: HeadConfig, read: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor: a file may claim any number of layers.

    The width of all states together is that of the tensor that joins them.
    """
    c = config.layers
    *_, num_states = (0, *read["fc.weight"].shape) if "fc.weight" in read else (0,)
    yield "fc.weight", (c.hidden_size, num_states)
    yield "layers.0.hidden_norm.weight", (c.hidden_size,)
    if config.normed_states:
        yield "input_norm.weight", (num_states,)
    for name, shape in expected_tensors(replace(c, tied=False)):
        if name == HEAD:
            yield name, (config.num_rows, c.hidden_size)
        elif name in _ENTRY:
            yield _name(name), (shape[0], 2 * c.hidden_size)
        elif name != EMBEDDING:
            yield _name(name), shape


def _token_ids(offsets: NDArray[Any] | None, config: HeadConfig, folder: Path) -> NDArray[np.intp]:
    ids = np.arange(config.num_rows, dtype=np.intp)
    if offsets is not None:
        if offsets.shape != ids.shape:
            raise ModelError(f"d2t in {folder} has shape {offsets.shape}, not {ids.shape}.")
        if offsets.dtype.kind not in "iu":
            raise ModelError(f"d2t in {folder} holds no whole numbers; choose another head.")
        ids = ids + offsets.astype(np.intp)
    if ids.min() < 0 or ids.max() >= config.layers.vocab_size or len(set(ids.tolist())) < len(ids):
        raise ModelError(
            f"The rows of the head in {folder} are not different tokens below "
            f"{config.layers.vocab_size}; it is damaged, or not for this vocabulary."
        )
    return ids
