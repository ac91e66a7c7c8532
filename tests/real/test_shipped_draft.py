"""The drafts that are shipped: as good as their model cards say, cheap, and never in the way."""

from __future__ import annotations

import statistics
from itertools import pairwise

import numpy as np
import pytest

from specdec.drafters.base import Drafter
from specdec.drafters.feature import make_feature_drafter
from specdec.drafters.model import ModelDrafter
from specdec.engine import RoundSettings, generate
from specdec.models.feature_head import FeatureHead
from specdec.models.fetch import hub
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.real.test_smollm2 import PROMPTS

pytestmark = pytest.mark.weights

# Measured by `python -m benchmarks.draft_quality`; the margin is for the few rounds of a test.
EXPECTED_ACCEPTANCE = {"smollm2-draft": 0.36, "smollm2-eagle": 0.30}
GREEDY_ACCEPTANCE = {"smollm2-draft": 0.36, "smollm2-eagle": 0.30}


@pytest.fixture(params=EXPECTED_ACCEPTANCE)
def drafter(
    request: pytest.FixtureRequest,
    smollm2: PortableModel,
    smollm2_draft: PortableModel,
    smollm2_head: FeatureHead,
) -> Drafter:
    if request.param == "smollm2-draft":
        return ModelDrafter(smollm2_draft)
    return make_feature_drafter(smollm2_head, smollm2.llama.config.num_layers)


def rounds_of(
    target: PortableModel,
    tokenizer: Tokenizer,
    drafter: Drafter,
    temperature: float,
    num_draft_tokens: int = 4,
) -> list[RoundResult]:
    rounds = []
    for prompt in PROMPTS[:8]:
        events = generate(
            tokenizer.apply_chat_template([{"role": "user", "content": prompt}]),
            LocalTarget(target),
            RoundSettings(drafter, num_draft_tokens, Sampler(temperature)),
            max_tokens=40,
            eos_token_ids=tokenizer.eos_token_ids,
        )
        rounds += [event for event in events if isinstance(event, RoundResult)]
    return rounds


def test_it_is_accepted_as_often_as_it_was_measured(
    smollm2: PortableModel, smollm2_tokenizer: Tokenizer, drafter: Drafter
) -> None:
    sampled = rounds_of(smollm2, smollm2_tokenizer, drafter, 0.7)
    firsts = [r.candidates[0].expected_acceptance for r in sampled if r.candidates]
    assert statistics.mean(firsts) > EXPECTED_ACCEPTANCE[drafter.name]
    greedy = rounds_of(smollm2, smollm2_tokenizer, drafter, 0.0)
    taken = [r.num_accepted > 0 for r in greedy if r.candidates]
    assert statistics.mean(taken) > GREEDY_ACCEPTANCE[drafter.name]


def test_it_says_only_its_own_tokens_and_reads_every_token(
    smollm2_tokenizer: Tokenizer, smollm2_draft: PortableModel
) -> None:
    draft = smollm2_draft
    assert draft.vocab_size == smollm2_tokenizer.vocab_size
    assert draft.head_ids is not None
    assert all(a < b for a, b in pairwise(draft.head_ids.tolist()))
    logits = draft.forward([draft.vocab_size - 1, 0], draft.new_cache())
    assert np.isfinite(logits).sum() == 2 * len(draft.head_ids)


@pytest.mark.mlx
def test_mlx_drafts_alike(smollm2_draft: PortableModel) -> None:
    pytest.importorskip("mlx")
    from specdec.models.mlx import MlxModel

    ids = [1, 9690, 198, 2683, 359, 253]
    mlx = MlxModel.load(hub.resolve("smollm2-draft"), "smollm2-draft")
    ours, theirs = (model.forward(ids, model.new_cache()) for model in (smollm2_draft, mlx))
    said = np.isfinite(ours)
    assert (said == np.isfinite(theirs)).all()
    assert np.abs(ours[said] - theirs[said]).max() < 1e-3
