"""vLLM on the CPU: plain, n-gram, draft model and feature head."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import vllm
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from benchmarks.peers.worker import Written, serve


class Vllm:
    """An engine for one request at a time; it tells when the first and the last token came."""

    version = f"vLLM {vllm.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        speculation = options.get("speculative_config")
        self._engine = LLM(
            options["target_folder"],
            dtype="float32",
            max_model_len=2048,
            max_num_seqs=1,
            enforce_eager=True,
            enable_prefix_caching=False,
            disable_log_stats=False,
            speculative_config=speculation,
        )
        self._is_plain = speculation is None

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        params = SamplingParams(
            max_tokens=num_tokens, temperature=temperature, seed=seed, ignore_eos=True
        )
        prompt = TokensPrompt(prompt_token_ids=prompt_ids)
        began_s, before = time.perf_counter(), self._num_accepted()
        answer = self._engine.generate(prompt, params, use_tqdm=False)[0]
        ended_s = time.perf_counter() - began_s
        first_s = answer.metrics.first_token_latency if answer.metrics else ended_s / num_tokens
        token_ids = list(answer.outputs[0].token_ids)
        written = Written(token_ids, [(first_s, 1), (ended_s, len(token_ids) - 1)])
        after = self._num_accepted()
        if self._is_plain:
            written.calls = num_tokens
        elif before is not None and after is not None:
            written.calls = num_tokens - (after - before)
        return written

    def _num_accepted(self) -> int | None:
        """Return how many drafted tokens were accepted since the start."""
        for metric in self._engine.get_metrics():
            if metric.name == "vllm:spec_decode_num_accepted_tokens":
                return int(metric.value)
        return None

    def forward_ms(self, num_rows: int) -> None:
        """Nobody is told: the engine has no call for a forward alone."""


if __name__ == "__main__":
    serve(Vllm)
