"""Who takes part: an engine, how it is set, the Python it runs in, and how that is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specdec.models.fetch import hub

HERE = "the Python that runs this; pip install -r requirements.txt"
WITH_TORCH = "the Python that runs this; pip install -r requirements-torch.txt"
WITH_MLX = 'the Python that runs this; pip install mlx-lm (on Linux "mlx[cpu]" with it)'
LLAMA = (
    "python -m venv VENV && VENV/bin/pip install xllamacpp; SPECDEC_LLAMA_PYTHON=VENV/bin/python"
)
VLLM = "tests/real/test_vllm_server.py says how to make one; SPECDEC_VLLM_PYTHON=VENV/bin/python"


@dataclass(frozen=True)
class Contestant:
    """An engine with its settings.

    Attributes:
        engine: who wrote it, as the table says.
        way: how it decodes.
        module: of this package, run by `python`.
        options: what the module is told.
        python: None where no environment variable names one.
        install: how the environment is made.
    """

    engine: str
    way: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = sys.executable
    install: str = HERE

    @property
    def name(self) -> str:
        return f"{self.engine}, {self.way}"


def contestants(
    target: str, draft: str, head: str, k: int, gguf: Path | None
) -> Iterator[Contestant]:
    """Yield everybody for a pair that is here.

    Args:
        target: a model's name or folder.
        draft: a small model, which everybody can draft with.
        head: a feature head, which reads the target's states; "" where the target has none.
        k: drafted tokens a round.
        gguf: the file that the target is made of.
    """
    yield from _ours(target, draft, head, k)
    folders = {"target_folder": str(hub.resolve(target))}
    both = folders | {"draft_folder": str(hub.resolve(draft)), "k": k}
    yield from _hugging_face(folders, both, k)
    for way, options in (("plain", folders), (f"speculative, K = {k}", both)):
        yield Contestant("mlx-lm", way, "mlx", options, install=WITH_MLX)
    python = os.environ.get("SPECDEC_LLAMA_PYTHON")
    if gguf is not None:
        file = {"gguf": str(gguf)}
        lookup = file | {"lookup": True, "k": k}
        for way, options in (("plain, 4 bits", file), ("n-gram, 4 bits", lookup)):
            yield Contestant("llama.cpp", way, "llama_cpp", options, python, LLAMA)
    python = os.environ.get("SPECDEC_VLLM_PYTHON")
    speculations: dict[str, dict[str, Any] | None] = {
        "plain": None,
        f"n-gram, K = {k}": {"method": "ngram", "prompt_lookup_max": 3},
        f"draft model, K = {k}": {"method": "draft_model", "model": both["draft_folder"]},
    }
    if head:
        opened = {"method": "eagle3", "model": str(hub.resolve(head))}
        speculations[f"feature head, K = {k}"] = opened
    for way, speculation in speculations.items():
        config = speculation and speculation | {"num_speculative_tokens": k}
        options = folders | {"speculative_config": config}
        yield Contestant("vLLM", way, "vllm", options, python, VLLM)


def _ours(target: str, draft: str, head: str, k: int) -> Iterator[Contestant]:
    best, kind = (head, "feature head") if head else (draft, "draft model")
    ways: dict[str, dict[str, Any]] = {
        "plain": {"draft": "none", "num_draft_tokens": 0},
        f"draft model, K = {k}": {"draft": draft},
        f"{kind}, K = {k}": {"draft": best},
        f"{kind}, adaptive K": {"draft": best, "policy": "adaptive"},
        f"{kind}, best tree": {"draft": best, "tree": "best"},
        f"{kind} + suffix": {"draft": f"{best}+suffix"},
        "layer-skip": {"draft": "layer-skip"},
        "n-gram": {"draft": "ngram"},
        "suffix": {"draft": "suffix"},
    }
    for way, options in ways.items():
        asked = {"target": target, "num_draft_tokens": k, "backend": "portable"} | options
        yield Contestant("SpeculatoViz", way, "ours", asked)


def _hugging_face(folders: dict[str, Any], both: dict[str, Any], k: int) -> Iterator[Contestant]:
    fixed = both | {"schedule": "constant", "threshold": 0.0}
    own = both | {"schedule": "constant", "threshold": 0.4, "k": 20}  # its own defaults
    for way, options in (
        ("plain", folders),
        (f"assisted, K = {k}", fixed),
        ("assisted, its own K", own),
        (f"prompt lookup, K = {k}", folders | {"lookup": True, "k": k}),
    ):
        yield Contestant("transformers", way, "hugging_face", options, install=WITH_TORCH)
