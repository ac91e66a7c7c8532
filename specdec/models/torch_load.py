"""From a Hugging Face folder to a model on a device, by transformers.

Safetensors only, and nothing of the folder's is ever run as code: neither pickles, nor Python
files beside the weights, nor attention kernels that a configuration names.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging as transformers_logging

from specdec.errors import ModelError
from specdec.models.fetch.progress import Progress
from specdec.models.torch_devices import device_title
from specdec.models.torch_network import TorchNetwork

_LOAD_LOCK = threading.RLock()
"""The progress hook of transformers is one for the process, and so are its words and warnings."""
_REPORT_EVERY_BYTES = 100_000_000


def open_network(
    folder: Path, name: str, device: str, weights_bytes: int, progress: Progress
) -> TorchNetwork:
    """Load the weights and move them to `device`: as they are stored, on the CPU in float32.

    Raises:
        ModelError: transformers cannot open the folder, weights are missing, or the model's cache
            cannot be rolled back.
    """
    config = _read_config(folder, name)
    _require_rollback(config, name)
    bar = _Bar(progress, f"Reading {name}", weights_bytes)
    module = _load(folder, name, config, device, bar)
    module.eval().requires_grad_(False)
    if device != "cpu":
        _move(module, name, device, progress)
    return TorchNetwork.of(module, device)


def _read_config(folder: Path, name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the folder's content leads it to
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name} brings its own Python code, which is never run here; choose a model of "
                "an architecture that transformers has."
            ) from error
        raise ModelError(
            f"transformers {transformers.__version__} cannot read what {folder} describes "
            f"({_first_line(error)}); choose another model or update transformers."
        ) from error


def _require_rollback(config: Any, name: str) -> None:
    """Refuse what keeps a state instead of a slot for each token, before weights are read."""
    try:
        layers = DynamicCache(config=config).layers
    except Exception as error:  # a kind of layer without a cache of its own
        raise ModelError(
            f"{name} has no cache that can be rolled back ({_first_line(error)}); choose a model "
            "with attention in every layer."
        ) from error
    kinds = {type(layer).__name__ for layer in layers}
    strange = kinds - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    if strange:
        raise ModelError(
            f"{name} keeps a running state ({', '.join(sorted(strange))}) instead of keys and "
            "values for each token, so rejected tokens cannot be taken back; choose a model with "
            "attention in every layer."
        )


def _load(folder: Path, name: str, config: Any, device: str, bar: _Bar) -> Any:
    """Read the weights into main memory."""
    dtype = torch.float32 if device == "cpu" else "auto"
    for attention in ("sdpa", "eager"):
        try:
            with _reported(bar):
                module, found = AutoModelForCausalLM.from_pretrained(
                    folder,
                    config=config,
                    dtype=dtype,
                    attn_implementation=attention,  # named, or the folder's own would be taken
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except Exception as error:
            if attention == "sdpa" and "attention implementation" in str(error):
                continue
            if type(error).__module__.partition(".")[0] not in _LIBRARIES:
                raise  # the caller's: somebody stopped it
            raise ModelError(
                f"transformers cannot open {folder} ({type(error).__name__}: "
                f"{_first_line(error)}); fetch it again or choose another model."
            ) from error
        missing = [*found["missing_keys"], *found.get("mismatched_keys", ())]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} tensors that fit, {sorted(map(str, missing))[0]} "
                "among them; fetch it again."
            )
        return module
    raise ModelError(f"{name} computes attention in no way that the torch backend knows.")


_LIBRARIES = ("builtins", "transformers", "torch", "safetensors", "safetensors_rust")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _reported(bar: _Bar) -> Iterator[None]:
    """Have transformers show its progress with `bar`, and print nothing."""

    def make(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Bar:
        return bar.over(arguments[0] if arguments else (), options.get("total"))

    before = transformers_logging.set_tqdm_hook(make)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the remarks of the libraries off the terminal; one model is opened at a time."""
    with _LOAD_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)


class _Bar:
    """What transformers takes for a progress bar; it counts tensors, and this reports their share
    of all bytes."""

    def __init__(self, progress: Progress, what: str, num_bytes: int) -> None:
        self._progress, self._what, self._num_bytes = progress, what, num_bytes
        self._items: Collection[Any] = ()
        self._done, self._total = 0, 0

    def over(self, items: Collection[Any], total: int | None) -> _Bar:
        """Begin anew, over other items."""
        self._items, self._done, self._total = items, 0, total or len(items)
        return self

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self._done += count
        share = min(1.0, self._done / max(1, self._total))
        self._progress(round(share * self._num_bytes), self._num_bytes, self._what)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None  # set_description, close, refresh, …


def _move(module: Any, name: str, device: str, progress: Progress) -> None:
    """Move the weights to a device, part after part, so that its progress can be seen."""
    what = f"Moving {name} to {device_title(device)}"
    total = sum(p.numel() * p.element_size() for p in module.parameters())
    done = reported = 0
    progress(0, total, what)
    for part in module.modules():
        own = [*part.parameters(recurse=False)]
        if own or [*part.buffers(recurse=False)]:
            # Tied weights stay tied: a parameter is changed in place, wherever it is used.
            for tensor in (*own, *part.buffers(recurse=False)):
                tensor.data = tensor.data.to(device)
            done += sum(p.numel() * p.element_size() for p in own)
        if done - reported >= _REPORT_EVERY_BYTES:
            reported = done
            progress(min(done, total), total, what)
    module.to(device)
