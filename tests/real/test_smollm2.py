"""The embedded default on its real weights: what it says, and that drafting never changes it."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.drafters.base import Drafter
from specdec.drafters.feature import make_feature_drafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings, generate
from specdec.models.feature_head import FeatureHead
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget

pytestmark = pytest.mark.weights

NUM_TOKENS = 12
PROMPTS = (
    "What is the capital of France? Then explain why the sky is blue.",
    "Write a Python function that reverses a list.",
    "List five fruits and their colours.",
    "Summarise: The cat sat on the mat. The dog sat on the log. They looked at each other.",
    "Count from one to twenty.",
    "Translate 'good morning' into Spanish, French and German.",
    "What is 12 times 12?",
    "Tell me a short story about a lighthouse keeper.",
    "Explain speculative decoding to a child.",
    "def fibonacci(n):",
    "Name the planets in order.",
    "Why do leaves fall in autumn?",
    "Write a haiku about rain.",
    "What does HTTP status 404 mean?",
    "Repeat after me: the quick brown fox jumps over the lazy dog.",
    "Give me a JSON object with name, age and city.",
    "¿Qué es la fotosíntesis?",
    "😀 What does this emoji mean?",
    "How do I boil an egg?",
    "SELECT name FROM users WHERE",
)


def write(
    model: PortableModel, tokenizer: Tokenizer, prompt: str, drafter: Drafter, num_draft_tokens: int
) -> list[int]:
    prompt_ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
    settings = RoundSettings(drafter, num_draft_tokens, Sampler(0.0))
    events = generate(
        prompt_ids,
        LocalTarget(model),
        settings,
        max_tokens=NUM_TOKENS,
        eos_token_ids=tokenizer.eos_token_ids,
    )
    return [t for event in events if isinstance(event, RoundResult) for t in event.emitted]


def test_the_known_answer(smollm2: PortableModel, smollm2_tokenizer: Tokenizer) -> None:
    ids = write(smollm2, smollm2_tokenizer, PROMPTS[0], NoDrafter(), 0)
    assert smollm2_tokenizer.decode(ids).startswith("Bonjour, welcome to the heart of the world.")


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_greedy_ids_are_those_of_plain_decoding(
    index: int,
    smollm2: PortableModel,
    smollm2_draft: PortableModel,
    smollm2_head: FeatureHead,
    smollm2_tokenizer: Tokenizer,
) -> None:
    """Each prompt meets one K of 0–16 per drafter, so that twenty prompts meet every K.

    `python -m benchmarks.exactness` runs all of them on all prompts.
    """
    prompt = PROMPTS[index]
    drafters = (
        NgramDrafter(),
        ModelDrafter(smollm2.without_middle_layers()),
        ModelDrafter(smollm2_draft),
        SuffixDrafter(),
        TreeDrafter(smollm2_draft, ("3-2-1", "2-2-1-1", "auto")[index % 3]),
        make_feature_drafter(smollm2_head, smollm2.llama.config.num_layers),
        make_feature_drafter(
            smollm2_head, smollm2.llama.config.num_layers, ("auto", "3-2-1", "2-2-1-1")[index % 3]
        ),
    )
    plain = write(smollm2, smollm2_tokenizer, prompt, NoDrafter(), 0)
    for offset, drafter in enumerate(drafters):
        num_draft_tokens = (index + 7 * offset) % 17
        got = write(smollm2, smollm2_tokenizer, prompt, drafter, num_draft_tokens)
        assert got == plain, (drafter.name, num_draft_tokens)


def test_logits_are_bitwise_the_same_alone_in_a_chain_and_in_a_tree(
    smollm2: PortableModel, smollm2_tokenizer: Tokenizer
) -> None:
    prompt_ids = smollm2_tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[1]}])
    ids = smollm2_tokenizer.encode(" Sure, here is one that does it in place")

    def fresh():
        cache = smollm2.new_cache()
        smollm2.prefill(prompt_ids, cache)
        return cache

    cache = fresh()
    alone = np.concatenate([smollm2.forward([token_id], cache) for token_id in ids])
    assert np.array_equal(smollm2.forward(ids, fresh()), alone)
    other = [7] * len(ids)  # a second branch, its nodes between those of the first
    tree = [t for pair in zip(ids, other, strict=True) for t in pair]
    parents = [node - 2 if node > 1 else -1 for node in range(len(tree))]
    rows = smollm2.forward(tree, fresh(), parents=parents)
    assert np.array_equal(rows[::2], alone)
