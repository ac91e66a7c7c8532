"""Feature heads against the classes of the "speculators" project, which defines their format.

It wants an older transformers than this package, so it is no part of the requirements; in an
environment of its own:

    VENV/bin/pip install -r requirements-dev.txt torch speculators
    VENV/bin/python -m pytest tests/models/test_speculators.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from specdec.drafters.feature import FeatureContext
from specdec.models.eagle3 import HeadWeights
from specdec.models.feature_head import FeatureHead
from specdec.models.fetch.hub import resolve
from specdec.models.json_values import read_json
from specdec.models.llama import read_embedding
from tests.models.tiny_head import write_tiny_head

torch = pytest.importorskip("torch")
eagle3 = pytest.importorskip(
    "speculators.models.eagle3", reason="the classes that define the format of feature heads"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
NUM_TOKENS, STEPS = 9, 4
FORMS: Mapping[str, Mapping[str, Any]] = {
    "plain residual": {"norm_before_residual": False},
    "normed residual": {"norm_before_residual": True},
    "normed states": {"norm_before_residual": True, "norm_before_fc": True},
    "two layers": {"norm_before_residual": False, "layers": 2},
}


def theirs(
    folder: Path, embedding: np.ndarray, ids: list[int], states: np.ndarray
) -> list[np.ndarray]:
    """Return, for each unrolled step, their logits [NUM_TOKENS - 1, num_rows]."""
    values = dict(read_json(folder / "config.json"))
    verifier = values.pop("speculators_config")["verifier"]
    config = eagle3.Eagle3SpeculatorConfig.from_dict(
        values
        | {
            "speculators_config": {
                "algorithm": "eagle3",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": STEPS}],
                "default_proposal_method": "greedy",
                "verifier": {"name_or_path": None, "architectures": [], **verifier},
            }
        }
    )
    config.speculators_config.verifier.name_or_path = None  # or it looks for it on the hub
    config.transformer_layer_config._attn_implementation = "eager"
    model = eagle3.Eagle3DraftModel(config).float().eval()
    tensors = {"embed_tokens.weight": embedding} | load_file(folder / "model.safetensors")
    left_out = model.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, strict=False
    )
    assert not left_out.unexpected_keys
    assert {name.split(".")[0] for name in left_out.missing_keys} <= {
        "verifier_norm",
        "verifier_lm_head",
    }
    seen: list[np.ndarray] = []
    model.lm_head.register_forward_hook(lambda *call: seen.append(call[2][0].numpy()))
    with torch.no_grad():
        model(
            torch.from_numpy(states[None].reshape(1, len(states), -1)),
            torch.tensor([ids[1:]]),
            torch.zeros(1, len(states), dtype=torch.long),
            ttt_steps=STEPS,
        )
    return seen


def check(folder: Path, embedding: np.ndarray, num_aux: int, seed: int = 0) -> None:
    """Compare every place and every unrolled step."""
    rng = np.random.default_rng(seed)
    head = FeatureHead(folder.name, HeadWeights.load(folder), embedding)
    rows = head.head.token_ids
    ids = rng.choice(np.sort(rows), NUM_TOKENS).tolist()
    states = rng.standard_normal((NUM_TOKENS - 1, num_aux, embedding.shape[1])).astype(np.float32)
    reference = theirs(folder, embedding, ids, states)
    assert len(reference) == STEPS
    for place in range(NUM_TOKENS - 1):
        for step in range(min(STEPS, NUM_TOKENS - 1 - place)):
            context = FeatureContext(head)
            own = context.read(ids[: place + 2], states[: place + 1])
            ours = context.score([*own, *ids[place + 2 : place + 2 + step]])[-1][rows]
            np.testing.assert_allclose(ours, reference[step][place], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_tiny_head_gives_the_logits_of_their_classes(tmp_path: Path, form: str) -> None:
    write_tiny_head(tmp_path / "head", **FORMS[form])
    embedding = np.random.default_rng(1).standard_normal((300, 32)).astype(np.float32)
    check(tmp_path / "head", embedding, 3)


@pytest.mark.weights
def test_the_shipped_head_gives_the_logits_of_their_classes() -> None:
    embedding = read_embedding(resolve("smollm2-135m"))
    check(resolve("smollm2-eagle"), embedding, 3)
