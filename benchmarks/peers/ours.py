"""This project, by its engine's own loop."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.peers.worker import Clock, Written, serve
from specdec import RunConfig, Sampler, generate
from specdec.models.portable import PortableModel
from specdec.pair import load_model, make_pair
from specdec.records import RoundResult, RunSummary


class Ours:
    """A pair, opened once; a run's state is its own."""

    version = "this checkout"

    def __init__(self, options: dict[str, Any]) -> None:
        self._load = cache(load_model)
        self._config = RunConfig(**options)
        self._pair = make_pair(self._config, self._load)

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        settings = replace(self._pair.round_settings(self._config), sampler=Sampler(temperature))
        clock = Clock()
        for event in generate(
            prompt_ids, self._pair.target, settings, max_tokens=num_tokens, seed=seed
        ):
            if isinstance(event, RoundResult):
                clock.note(list(event.emitted))
            elif isinstance(event, RunSummary) and event.error:
                raise RuntimeError(event.error)
        clock.written.calls = len(clock.written.arrivals)
        return clock.written

    def forward_ms(self, num_rows: int) -> float:
        model = self._load(self._config.target, self._config.place).model
        assert isinstance(model, PortableModel)
        cache = model.new_cache()
        model.prefill(list(range(100, 164)), cache)
        began_s = time.perf_counter()
        model.forward(list(range(100, 100 + num_rows)), cache)
        return 1e3 * (time.perf_counter() - began_s)


if __name__ == "__main__":
    serve(Ours)
