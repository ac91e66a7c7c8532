"""`transformers`: plain, assisted generation, prompt lookup."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.peers.worker import Clock, Written, serve


class _Notes(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc, name-defined]
    """Notes what `generate` hands out, the prompt apart, which comes first."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self.clock.note(value.flatten().tolist())
        self._is_prompt = False

    def end(self) -> None:
        pass


class HuggingFace:
    """The target and, for assisted generation, the draft, in float32."""

    version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        transformers.logging.set_verbosity_error()
        self._target = _open(options["target_folder"])
        self._more: dict[str, Any] = {}
        if "draft_folder" in options:
            draft = self._more["assistant_model"] = _open(options["draft_folder"])
            draft.generation_config.num_assistant_tokens = options["k"]
            draft.generation_config.num_assistant_tokens_schedule = options["schedule"]
            draft.generation_config.assistant_confidence_threshold = options["threshold"]
        elif "lookup" in options:
            self._more["prompt_lookup_num_tokens"] = options["k"]
        self._calls = 0
        self._target.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self._calls += 1

    def write(
        self, prompt_ids: list[int], num_tokens: int, temperature: float, seed: int
    ) -> Written:
        torch.manual_seed(seed)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        self._calls, notes = 0, _Notes()
        with torch.inference_mode():
            self._target.generate(
                torch.tensor([prompt_ids]),
                attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
                max_new_tokens=num_tokens,
                streamer=notes,
                **sampling,
                **self._more,
            )
        notes.clock.written.calls = self._calls
        return notes.clock.written

    def forward_ms(self, num_rows: int) -> float:
        with torch.inference_mode():
            kept = DynamicCache()
            self._target(torch.arange(100, 164)[None], past_key_values=kept)
            began_s = time.perf_counter()
            self._target(torch.arange(100, 100 + num_rows)[None], past_key_values=kept)
            return 1e3 * (time.perf_counter() - began_s)


def _open(folder: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # everybody writes as many tokens
    model.generation_config.pad_token_id = 0
    return model


if __name__ == "__main__":
    serve(HuggingFace)
