"""Toy models behind the pump's own seam, the shelf: real engine, real tokenizer, no weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from specdec.errors import ModelError
from specdec.live.pump import LiveRun
from specdec.live.shelf import ModelShelf
from specdec.models.tokenizer import Tokenizer
from specdec.pair import LoadedModel
from tests.models.tiny import write_tiny_tokenizer
from tests.toy import ToyModel

VOCAB_SIZE = 300


class SkippingToy(ToyModel):
    """A toy that goes by the last token; its draft, by layer skipping, is itself with noise."""

    def __init__(self, *, noise: float = 0.0, gate: threading.Semaphore | None = None) -> None:
        super().__init__(seed=1)
        self.vocab_size = VOCAB_SIZE
        rng = np.random.default_rng(1)
        shape = (VOCAB_SIZE, VOCAB_SIZE)
        self.table = 2.0 * rng.normal(size=shape) + noise * rng.normal(size=shape)
        self.table[:, :3] = -30.0  # no control token, so runs go on until their limit
        self.gate = gate
        self.fail_after: int | None = None
        self.pause_s = 0.0

    def without_middle_layers(self):
        return SkippingToy(noise=0.4)

    def logits_after(self, context):
        return self.table[context[-1]].astype(np.float32)

    def forward(self, token_ids, cache, **options):
        if self.gate is not None:
            self.gate.acquire()
        time.sleep(self.pause_s)
        if self.fail_after is not None and self.num_fed >= self.fail_after:
            raise ModelError("The toy broke; wind it up again.")
        return super().forward(token_ids, cache, **options)


class WritingToy(SkippingToy):
    """A toy that writes one text again and again; its draft errs at every `errs_every`-th token."""

    def __init__(self, token_ids: Sequence[int], errs_every: int = 0) -> None:
        super().__init__()
        self.token_ids = list(token_ids)
        self.errs_every = errs_every
        self.prompt_length: int | None = None

    def without_middle_layers(self):
        return WritingToy(self.token_ids, errs_every=5)

    def prefill(self, token_ids, cache, **options):
        # The last token of the prompt is fed with the first draft.
        self.prompt_length = len(token_ids) + 1
        super().prefill(token_ids, cache, **options)

    def logits_after(self, context):
        place = len(context) - self.prompt_length
        wrong = self.errs_every and place % self.errs_every == self.errs_every - 1
        row = np.full(VOCAB_SIZE, -9.0, np.float32)
        row[self.token_ids[(place + bool(wrong)) % len(self.token_ids)]] = 9.0
        return row


def toy_load(folder: Path, models: Mapping[str, ToyModel]):
    """Return what a shelf loads with, so that `models` are there and no others."""
    write_tiny_tokenizer(folder, vocab_size=VOCAB_SIZE)
    tokenizer = Tokenizer.load(folder)

    def load(name, backend, progress=None):
        if progress:
            progress(1, 2, f"fetching {name}")
        if name not in models:
            raise ModelError(f"There is no model {name}; choose another.")
        return LoadedModel(models[name], tokenizer)

    return load


def toy_shelf(folder: Path, model: ToyModel | None = None) -> ModelShelf:
    """Return a shelf that holds `model` by the name of "toy", and nothing else."""
    return ModelShelf(toy_load(folder, {"toy": model or SkippingToy()}))


def finished(live: LiveRun, timeout_s: float = 20.0) -> LiveRun:
    """Wait for a run to be over."""
    live.join(timeout_s)
    assert not live.is_alive
    return live


def frames_of(live: LiveRun):
    """Return what has been recorded of a run so far."""
    recorder = live.performance.recorder
    return [] if recorder is None else list(recorder.frames)


def wait_for(condition, timeout_s: float = 10.0) -> None:
    """Wait until `condition()` holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)
