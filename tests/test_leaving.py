"""Runs that are left half-way, again and again, leave nothing behind."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np

from specdec.drafters.model import ModelDrafter
from specdec.engine import RoundSettings, generate
from specdec.models.portable import PortableModel
from specdec.records import Event, RoundResult
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.models.tiny import write_tiny_llama

PROMPT = [5, 17, 3, 99, 42]
NUM_RUNS = 200
ALLOWED_GROWTH_BYTES = 200_000  # one leaked cache of this model holds 400 kB


def test_two_hundred_runs_left_at_a_random_yield_leave_memory_flat(tmp_path: Path) -> None:
    model = PortableModel.load(write_tiny_llama(tmp_path, layers=3))
    target = LocalTarget(model)
    settings = RoundSettings(ModelDrafter(model.without_middle_layers()), 3, Sampler(0.0))

    def events() -> closing[Event]:
        return closing(generate(PROMPT, target, settings, max_tokens=30))

    def whole_run() -> list[int]:
        with events() as run:
            return [t for event in run if isinstance(event, RoundResult) for t in event.emitted]

    expected = whole_run()
    rng = np.random.default_rng(0)
    sizes = []
    tracemalloc.start()
    try:
        for index in range(NUM_RUNS):
            with events() as run:
                for _ in range(int(rng.integers(1, 12))):
                    next(run)
            if index in (NUM_RUNS // 4, NUM_RUNS - 1):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < ALLOWED_GROWTH_BYTES
    assert whole_run() == expected
