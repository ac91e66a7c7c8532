"""llama.cpp's own server in this process (`xllamacpp`), on the GGUF file the target is made of.

It tells times by its own clock, of prompt and answer; how often it called the model is known from
what it drafted and accepted.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.request import Request, urlopen

import xllamacpp

from benchmarks.peers.worker import Written, serve


class LlamaCpp:
    """A server with one slot."""

    version = f"xllamacpp {xllamacpp.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = options["gguf"]
        params.n_ctx, params.n_parallel, params.warmup = 4096, 1, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(2)
        )
        kinds = xllamacpp.common_speculative_type
        if "draft_gguf" in options:
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
            params.speculative.draft.mparams.path = options["draft_gguf"]
            params.speculative.draft.n_max = options["k"]
        elif "lookup" in options:
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
            params.speculative.ngram_simple.size_n = 3
            params.speculative.ngram_simple.size_m = options["k"]
        params.hostnames, params.port = ["127.0.0.1"], 0
        self._server = xllamacpp.Server(params)  # ready when it is made
        self._url = f"{self._server.listening_address}/completion"

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        question = Request(
            self._url,
            json.dumps(
                {
                    "prompt": prompt_ids,
                    "n_predict": num_tokens,
                    "temperature": temperature,
                    "top_k": 0,
                    "top_p": 1.0,
                    "min_p": 0.0,
                    "samplers": ["temperature"],
                    "seed": seed,
                    "ignore_eos": True,
                    "cache_prompt": False,
                    "return_tokens": True,
                }
            ).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(question) as stream:
            answer = json.load(stream)
        timings = answer["timings"]
        first_s = timings["prompt_ms"] / 1e3
        written = Written(list(answer["tokens"]))
        count = timings["predicted_n"]
        written.arrivals = [(first_s, 1), (first_s + timings["predicted_ms"] / 1e3, count - 1)]
        written.calls = count - timings.get("draft_n_accepted", 0)
        return written

    def forward_ms(self, num_rows: int) -> None:
        """Nobody is told: the server has no call for a forward alone."""


if __name__ == "__main__":
    serve(LlamaCpp)
