"""`mlx-lm`: plain and speculative, as its own step generators have it."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from benchmarks.peers.worker import Clock, Written, serve


class Mlx:
    """The target and, if there is one, the draft."""

    version = f"mlx-lm {metadata.version('mlx-lm')}"

    def __init__(self, options: dict[str, Any]) -> None:
        self._target = load(options["target_folder"])[0]
        self._draft = load(options["draft_folder"])[0] if "draft_folder" in options else None
        self._k = options.get("k", 0)

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        mx.random.seed(seed)
        prompt, sampler = mx.array(prompt_ids, mx.uint32), make_sampler(temperature)
        clock = Clock()
        if self._draft is None:
            for token, _ in generate_step(
                prompt, self._target, max_tokens=num_tokens, sampler=sampler
            ):
                clock.note([int(token)])
            clock.written.calls = num_tokens
            return clock.written
        calls = 0
        for token, _, from_draft in speculative_generate_step(
            prompt,
            self._target,
            self._draft,
            num_draft_tokens=self._k,
            max_tokens=num_tokens,
            sampler=sampler,
        ):
            clock.note([int(token)])
            calls += not from_draft  # one token of each call is the target's own
        clock.written.calls = calls
        return clock.written

    def forward_ms(self, num_rows: int) -> float:
        kept = make_prompt_cache(self._target)
        mx.eval(self._target(mx.arange(100, 164)[None], cache=kept))
        began_s = time.perf_counter()
        mx.eval(self._target(mx.arange(100, 100 + num_rows)[None], cache=kept))
        return 1e3 * (time.perf_counter() - began_s)


if __name__ == "__main__":
    serve(Mlx)
