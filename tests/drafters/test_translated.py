"""A draft of another vocabulary: the output law is the target's, and the draft reads the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from specdec.acceptance import Draft, verify
from specdec.drafters.model import ModelDrafter
from specdec.drafters.translated import TranslatedDrafter, Translator, make_model_drafter
from specdec.drafters.vocabulary import match_vocabularies
from specdec.engine import RoundSettings, generate
from specdec.models.context import CachedContext
from specdec.models.tokenizer import Tokenizer
from specdec.policies.base import Budget
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget
from tests import test_acceptance
from tests.models.tiny import write_tiny_tokenizer
from tests.test_acceptance import assert_target_law, sequence_law
from tests.toy import ScriptedRandom, ToyModel
from tests.toy_tokenizers import write_toy_tokenizer

DRAFT_TOKENS = ["a", "b", "ab", "bab", "aab"]
TARGET_TOKENS = ["b", "ba", "a", "ab"]
SAMPLER = Sampler(0.9)
TEMPLATE = (
    "{% for message in messages %}[{{ message['content'] | trim }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture
def tokenizers(tmp_path):
    """Return a draft's and a target's tokenizer with different merges and ids."""
    draft = write_toy_tokenizer(tmp_path / "draft", DRAFT_TOKENS)
    return draft, write_toy_tokenizer(tmp_path / "target", TARGET_TOKENS)


def drafter_for(tokenizers, seed: int) -> TranslatedDrafter:
    draft, target = tokenizers
    model = ToyModel(seed, vocab_size=len(DRAFT_TOKENS))
    drafter = make_model_drafter(model, draft, target, len(TARGET_TOKENS))
    assert isinstance(drafter, TranslatedDrafter)
    return drafter


def every_draft(drafter, prompt, num_tokens) -> Iterator[Draft]:
    """Yield every draft that `propose` can draw, its distributions normalised in float64."""

    def follow(uniforms: list[float]) -> Iterator[Draft]:
        run = drafter.start(prompt)
        draft = run.propose(prompt, Budget.chain(num_tokens), SAMPLER, ScriptedRandom(uniforms))
        probs = [d.probs.astype(float) for d in draft.distributions]
        if len(uniforms) == len(draft):
            exact = [Distribution.from_probs(p / p.sum()) for p in probs]
            yield Draft.chain(draft.token_ids, exact)
            return
        edges = np.concatenate([[0.0], np.cumsum(probs[len(uniforms)])])
        for token_id in np.flatnonzero(probs[len(uniforms)]):
            yield from follow([*uniforms, float(edges[token_id : token_id + 2].mean())])

    yield from follow([])


def chance_of(draft: Draft) -> float:
    drawn = zip(draft.token_ids, draft.distributions, strict=True)
    return float(np.prod([distribution.probs[token_id] for token_id, distribution in drawn]))


@pytest.mark.parametrize("seed", range(4))
def test_the_output_law_is_the_targets_to_the_last_bit_of_rounding(tokenizers, seed, monkeypatch):
    """Enumerates every draft, every test and every final token over three output tokens.

    The target can say "ba", which the draft cannot; the draft can say "bab" and "aab", which the
    target cannot.
    """
    vocab_size = len(TARGET_TOKENS)
    monkeypatch.setattr(test_acceptance, "VOCAB", vocab_size)
    prompt = [2, 0]
    target_model = ToyModel(seed + 50, vocab_size=vocab_size)

    def target(output: tuple[int, ...]):
        logits = target_model.logits_after([*prompt, *output]).astype(float)
        return Distribution.from_logits(logits, SAMPLER).probs

    drafts = list(every_draft(drafter_for(tokenizers, seed), prompt, 2))
    assert {token_id for draft in drafts for token_id in draft.token_ids} == {0, 2, 3}
    chances = [chance_of(draft) for draft in drafts]
    assert sum(chances) == pytest.approx(1.0, abs=1e-12)
    law = sequence_law(zip(drafts, chances, strict=True), target, 3)
    assert_target_law(law, target, 3)


def test_the_draft_is_the_models_own_distribution_on_the_shared_tokens(tokenizers):
    drafter = drafter_for(tokenizers, 3)
    run = drafter.start([2, 0])
    draft = run.propose([2, 0], Budget.chain(1), SAMPLER, np.random.default_rng(0))
    logits = drafter.model.logits_after(drafter.translator.prompt([2, 0]))
    weights = np.exp(logits[[1, 0, 2]].astype(float) / 0.9)  # "b", "a", "ab"
    probs = draft.distributions[0].probs
    np.testing.assert_allclose(probs[[0, 2, 3]], weights / weights.sum(), rtol=1e-5)
    assert probs[1] == 0.0


def test_at_temperature_zero_the_output_is_plain_decoding(tokenizers):
    target = LocalTarget(ToyModel(7, vocab_size=len(TARGET_TOKENS)))
    outputs = []
    for k in (0, 3):
        settings = RoundSettings(drafter_for(tokenizers, 1), k, Sampler(0.0))
        events = generate([2, 0, 1], target, settings, max_tokens=30)
        rounds = [event for event in events if isinstance(event, RoundResult)]
        outputs.append([token for result in rounds for token in result.emitted])
    assert outputs[0] == outputs[1]


def test_each_round_the_draft_reads_the_whole_text_in_its_own_tokens(tokenizers):
    """b + a + ab is "baab", which the draft cuts as b, aab; its cache keeps what stays."""
    draft, _ = tokenizers
    drafter = drafter_for(tokenizers, 1)
    run = drafter.start([2])
    for output in ([0], [0, 2], [0, 2, 3], [1], [0, 0, 0]):
        context = [2, *output]
        proposed = run.propose(context, Budget.chain(1), SAMPLER, np.random.default_rng(0))
        read = [*drafter.translator.prompt([2]), *drafter.translator.output(output)]
        fresh = CachedContext(drafter.model).score(read)[-1]
        expected = Distribution.from_logits(drafter.match.lift(fresh, 4), SAMPLER).probs
        np.testing.assert_allclose(proposed.distributions[0].probs, expected, rtol=1e-6)
    assert drafter.translator.output([0, 2, 3]) == draft.encode("baab")


def test_the_draft_stops_where_it_could_say_nothing_that_the_target_knows(tokenizers):
    drafter = drafter_for(tokenizers, 1)
    drafter.model.table[..., [0, 1, 2]] = -np.inf  # only "bab" and "aab" are left
    draft = drafter.start([2]).propose([2], Budget.chain(3), SAMPLER, np.random.default_rng(0))
    assert len(draft) == 0
    probs = Distribution.from_logits(np.float32([1, 2, 3, 4]), SAMPLER).probs
    assert verify(draft, [probs], np.random.default_rng(0)).final_token is not None


def test_a_prompt_longer_than_the_drafts_context_is_not_drafted_for(tokenizers):
    drafter = drafter_for(tokenizers, 1)
    drafter.model.context_length = 4
    prompt = [2, 0] * 5
    assert (
        len(
            drafter.start(prompt).propose(
                prompt, Budget.chain(3), SAMPLER, np.random.default_rng(0)
            )
        )
        == 0
    )
    assert drafter.model.prefills == []


def test_the_same_vocabulary_needs_no_translation(tmp_path):
    tokenizer = write_toy_tokenizer(tmp_path, DRAFT_TOKENS)
    model = ToyModel(vocab_size=5)
    assert isinstance(make_model_drafter(model, tokenizer, tokenizer, 5), ModelDrafter)


def test_a_padded_head_is_cut_and_its_context_passes_through(tmp_path):
    tokenizer = write_toy_tokenizer(tmp_path, DRAFT_TOKENS)
    for draft_size, target_size in ((8, 5), (5, 8), (8, 7)):
        model = ToyModel(1, vocab_size=draft_size)
        drafter = make_model_drafter(model, tokenizer, tokenizer, target_size)
        context = [0, 3, 2]  # "a" + "bab" + "ab" would be cut otherwise by the tokenizer
        run = drafter.start(context[:1])
        draft = run.propose(context, Budget.chain(1), SAMPLER, np.random.default_rng(0))
        probs = draft.distributions[0].probs
        assert probs.shape == (target_size,)
        logits = model.logits_after(context)[:5].astype(float)
        weights = np.exp((logits - logits.max()) / 0.9)
        np.testing.assert_allclose(probs[:5], weights / weights.sum(), rtol=1e-5)
        assert not probs[5:].any()


@pytest.fixture
def chats(tmp_path):
    """Return two tokenizers for chats: ours, and one with another template and other merges."""
    write_tiny_tokenizer(tmp_path)
    letters = list(map(chr, range(33, 127)))
    other = write_toy_tokenizer(
        tmp_path / "other",
        [*letters, "Ġ", "Ċ", "th", "the", "Ã", "©", "ð", "Ł"],
        control=["<s>"],
        template=TEMPLATE,
    )
    return Tokenizer.load(tmp_path), other


@pytest.mark.parametrize("message", ["the tin", " the", "a <|im_end|> b", "0", "é!"])
def test_the_draft_gets_the_prompt_in_its_own_chat_format(chats, message):
    target, draft = chats
    translator = Translator(draft, target, match_vocabularies(target, draft))
    messages = [{"role": "user", "content": message}]
    prompt = translator.prompt(target.apply_chat_template(messages))
    assert prompt == draft.apply_chat_template(messages)


def test_a_prompt_of_another_form_is_passed_on_as_its_text(chats):
    target, draft = chats
    translator = Translator(draft, target, match_vocabularies(target, draft))
    prompt = target.encode("the tin")
    assert translator.prompt(prompt) == draft.encode("the tin")
    assert translator.prompt([0, 1]) == draft.encode(" ")  # control tokens alone


def test_control_tokens_drop_out_of_what_the_draft_reads(chats):
    target, draft = chats
    translator = Translator(draft, target, match_vocabularies(target, draft))
    assert translator.output([1, *target.encode("the"), 2]) == draft.encode("the")


def test_half_a_character_reaches_the_draft_as_bytes(chats):
    target, draft = chats
    translator = Translator(draft, target, match_vocabularies(target, draft))
    emoji = target.encode("a😀")
    assert b"".join(map(target.token_bytes, emoji[:2])) == b"a\xf0\x9f"
    assert translator.output(emoji[:2]) == [*draft.encode("a"), *single(draft, b"\xf0\x9f")]


def single(tokenizer, data: bytes) -> list[int]:
    table = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [table[bytes([byte])] for byte in data]


def test_the_toy_vocabularies_really_differ(tokenizers):
    """The law above would prove little if both sides cut a text alike."""
    draft, target = tokenizers
    texts = ["".join(letters) for letters in itertools.product("ab", repeat=4)]
    pieces = [
        [[t.token_bytes(i) for i in t.encode(text)] for text in texts] for t in (draft, target)
    ]
    assert sum(left != right for left, right in zip(*pieces, strict=True)) > len(texts) / 2
