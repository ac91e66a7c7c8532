"""Two vocabularies meet in their bytes."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models

from specdec.drafters.vocabulary import match_vocabularies, single_bytes
from specdec.errors import ModelError
from specdec.models.tokenizer import Tokenizer
from tests.models.tiny import write_tiny_tokenizer
from tests.toy_tokenizers import write_toy_tokenizer


def pairs(match) -> dict[int, int]:
    return dict(zip(match.draft_ids.tolist(), match.target_ids.tolist(), strict=True))


def test_tokens_of_the_same_bytes_meet_whatever_their_ids(tmp_path):
    draft = write_toy_tokenizer(tmp_path / "d", ["a", "b", "ab", "abb"], control=["<e>"])
    target = write_toy_tokenizer(tmp_path / "t", ["b", "a", "ba", "ab"], control=["<x>", "<e>"])
    match = match_vocabularies(draft, target)
    assert pairs(match) == {0: 1, 1: 0, 2: 3, 4: 5}
    assert not match.same_ids
    assert str(match) == "3 tokens in common, 75.0 % of the draft's"


def test_a_control_token_never_meets_a_text_of_the_same_letters(tmp_path):
    draft = write_toy_tokenizer(tmp_path / "d", ["a", "b", "ab"])
    target = write_toy_tokenizer(tmp_path / "t", ["a", "b"], control=["ab"])
    assert pairs(match_vocabularies(draft, target)) == {0: 0, 1: 1}


def test_a_padded_vocabulary_is_the_same_vocabulary(tmp_path):
    short = write_toy_tokenizer(tmp_path / "s", ["a", "b", "ab"], control=["<e>"])
    padded = write_toy_tokenizer(tmp_path / "p", ["a", "b", "ab"], control=["<e>", "<r0>", "<r1>"])
    for draft, target in ((short, padded), (padded, short), (short, short)):
        match = match_vocabularies(draft, target)
        assert match.same_ids
        assert str(match) == "the same vocabulary"


@pytest.mark.parametrize("tokens", [["a", "b", "ba"], ["b", "a", "ab"], ["a", "b", "ab", "ba"]])
def test_another_token_or_order_is_another_vocabulary(tmp_path, tokens):
    draft = write_toy_tokenizer(tmp_path / "d", ["a", "b", "ab"])
    target = write_toy_tokenizer(tmp_path / "t", tokens)
    assert not match_vocabularies(draft, target).same_ids


def test_lifted_logits_are_the_drafts_own_on_the_shared_tokens_and_nothing_elsewhere(tmp_path):
    draft = write_toy_tokenizer(tmp_path / "d", ["a", "b", "ab", "abb"])
    target = write_toy_tokenizer(tmp_path / "t", ["b", "a", "ba", "ab"])
    match = match_vocabularies(draft, target)
    lifted = match.lift(np.float32([1, 2, 3, 4, 9]), 6)  # both heads are padded
    np.testing.assert_array_equal(lifted, [2, 1, -np.inf, 3, -np.inf, -np.inf])
    assert lifted.dtype == np.float32


def test_a_smaller_head_on_either_side_cuts_the_shared_tokens(tmp_path):
    draft = write_toy_tokenizer(tmp_path / "d", ["a", "b", "ab"])
    match = match_vocabularies(draft, draft)
    np.testing.assert_array_equal(match.lift(np.float32([1, 2]), 3), [1, 2, -np.inf])
    np.testing.assert_array_equal(match.lift(np.float32([1, 2, 3]), 2), [1, 2])


def test_too_little_in_common_is_one_sentence_before_the_run(tmp_path):
    draft = write_toy_tokenizer(tmp_path / "d", [*"abcdefghijkl"])
    target = write_toy_tokenizer(tmp_path / "t", [*"lmnopqrstuvw"])
    with pytest.raises(ModelError, match=r"share only 1 of the draft's 12 tokens; choose"):
        match_vocabularies(draft, target)


def sentencepiece(folder) -> Tokenizer:
    """Write a vocabulary with a byte for every byte and letters besides, as sentencepiece does."""
    folder.mkdir()
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "é"]
    engine = Engine(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=[("▁", "a")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    engine.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def test_of_a_letter_and_its_byte_the_one_that_is_written_counts(tmp_path):
    draft = sentencepiece(tmp_path / "d")
    write_tiny_tokenizer(tmp_path)
    target = Tokenizer.load(tmp_path)
    found = pairs(match_vocabularies(draft, target))
    letter = draft.encode("a")[-1]
    assert draft.token_bytes(letter) == b"a"
    assert found[letter] == target.encode("a")[0]
    assert 1 + ord("a") not in found
    assert found[1 + 0xC3] == target.encode("é")[0]
    assert single_bytes(draft)[ord("a")] == letter
    assert single_bytes(draft)[0xC3] == 1 + 0xC3


def test_a_vocabulary_meets_itself_in_every_token(tmp_path):
    write_tiny_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    match = match_vocabularies(tokenizer, tokenizer)
    assert match.same_ids
    assert match.draft_ids.tolist() == list(range(tokenizer.vocab_size))
    assert len(single_bytes(tokenizer)) == 256


def test_two_folders_with_one_tokenizer_file_have_one_vocabulary(tmp_path):
    folders = [tmp_path / name for name in ("d", "t", "other")]
    draft, target = (write_toy_tokenizer(f, ["a", "b", "ab"], control=["<e>"]) for f in folders[:2])
    other = write_toy_tokenizer(folders[2], ["a", "b", "ba"], control=["<e>"])
    assert draft.vocabulary is target.vocabulary is not other.vocabulary
    match = match_vocabularies(draft, target)
    assert pairs(match) == {i: i for i in range(4)}
    assert str(match) == "the same vocabulary"
    assert match.num_texts == match.num_shared_texts == 3


def test_controls_and_texts_are_told_apart_by_the_one_engine_of_a_vocabulary(tmp_path):
    words = write_toy_tokenizer(tmp_path, ["a", "<", "e", ">"], control=["<e>"]).vocabulary
    for _ in range(2):
        assert words.encode("a<e>", with_controls=True) == [0, 4]
        assert words.encode("a<e>") == [0, 1, 2, 3]
