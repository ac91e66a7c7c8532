"""A GGUF file and the Hugging Face folder made from it are the same model, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from specdec.errors import ModelError
from specdec.models.fetch.gguf_folder import convert_gguf
from specdec.models.tokenizer import Tokenizer
from tests.models.fetch.tiny_gguf import write_tiny_gguf
from tests.models.tiny import SPECIAL_TOKENS, write_tiny_llama

Convert = Callable[..., Path]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "original")


@pytest.fixture
def convert(original: Path, tmp_path: Path) -> Convert:
    def run(source: Path = original, **options: Any) -> Path:
        gguf_file = write_tiny_gguf(tmp_path / "tiny.gguf", source, **options)
        folder = tmp_path / "converted"
        folder.mkdir()
        convert_gguf(gguf_file, folder)
        return folder

    return run


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_every_tensor_returns_exactly(convert: Convert, tmp_path: Path, tie: bool) -> None:
    source = write_tiny_llama(tmp_path / "source", tie=tie)
    expected = load_file(source / "model.safetensors")
    found = load_file(convert(source) / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("quantisation", ["Q4_1", "Q8_0", "F16", "BF16"])
def test_every_tensor_is_what_its_quantised_rows_stand_for(
    convert: Convert, original: Path, quantisation: str
) -> None:
    kind = gguf.GGMLQuantizationType[quantisation]
    found = load_file(convert(quantisation=quantisation) / "model.safetensors")
    for name, values in load_file(original / "model.safetensors").items():
        if values.ndim == 2:  # a row is quantised by itself, so the order of rows cannot matter
            values = dequantize(quantize(values, kind), kind)
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_the_settings_of_the_model_return(convert: Convert, tmp_path: Path, tie: bool) -> None:
    source = write_tiny_llama(tmp_path / "source", tie=tie)
    expected = config_of(source)
    del expected["rope_scaling"]
    assert config_of(convert(source)) == expected


def test_the_tokenizer_returns(convert: Convert, original: Path) -> None:
    ours, theirs = Tokenizer.load(convert()), Tokenizer.load(original)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.eos_token_ids == theirs.eos_token_ids
    messages = [{"role": "user", "content": "the theory of 1234\n\n<|im_end|> 🎉"}]
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages)


def test_progress_counts_every_byte_of_the_weights_once(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    folder.mkdir()
    reports: list[tuple[int, int | None]] = []
    gguf_file = write_tiny_gguf(tmp_path / "tiny.gguf", original)
    convert_gguf(gguf_file, folder, progress=lambda done, total, _: reports.append((done, total)))
    num_bytes = sum(values.nbytes for values in load_file(folder / "model.safetensors").values())
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1] == (num_bytes, num_bytes)


LLAMA_3_THETA = 500_000.0


# The scaling that Hugging Face applies, as a reference for the divisors in the file:
# transformers/modeling_rope_utils.py, `_compute_llama3_parameters`.
def llama_3_divisors(factor: float, low: float, high: float, original: int) -> np.ndarray:
    divisors = []
    for index in range(4):
        wavelength = 2 * np.pi * LLAMA_3_THETA ** (2 * index / 8)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


@pytest.mark.parametrize("original_length", [8192, 1024])
def test_llama_3_frequency_scaling_is_recognised(convert: Convert, original_length: int) -> None:
    changes: dict[str, Any] = {"llama.rope.freq_base": LLAMA_3_THETA}
    if original_length != 8192:
        changes["llama.rope.scaling.original_context_length"] = original_length
    divisors = llama_3_divisors(8, 1, 4, original_length)
    folder = convert(extra={"rope_freqs.weight": divisors}, changes=changes)
    assert config_of(folder)["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original_length,
    }


def test_linear_scaling_is_kept(convert: Convert) -> None:
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    scaling = config_of(convert(changes=changes))["rope_scaling"]
    assert scaling == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"changes": {"general.architecture": "qwen2"}}, "architecture 'qwen2'"),
        ({"changes": {"tokenizer.ggml.model": "llama"}}, "'llama' vocabulary"),
        ({"changes": {"tokenizer.ggml.pre": "tekken"}}, "'tekken'"),
        ({"changes": {"llama.attention.head_count": [4, 4, 2]}}, "head_count"),
        ({"changes": {"llama.context_length": None}}, "context_length"),
        ({"changes": {"llama.rope.dimension_count": 4}}, "part of each head"),
        ({"changes": {"llama.rope.scaling.type": "longrope"}}, "'longrope'"),
        ({"extra": {"rope_freqs.weight": np.full(4, 3, np.float32)}}, "not Llama 3's"),
        ({"extra": {"blk.0.attn_q.bias": np.zeros(32, np.float32)}}, r"blk\.0\.attn_q\.bias"),
        ({"without": "token_embd.weight"}, "no token embeddings"),
        ({"without": "blk.1.ffn_up.weight"}, r"lacks blk\.1\.ffn_up\.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_plain_llama_is_refused_in_a_sentence(
    convert: Convert, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        convert(**options)


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -1000], ids=lambda keep: f"{keep} bytes")
def test_a_truncated_file_is_refused_in_a_sentence(
    original: Path, tmp_path: Path, keep: int
) -> None:
    gguf_file = write_tiny_gguf(tmp_path / "tiny.gguf", original)
    gguf_file.write_bytes(gguf_file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"tiny\.gguf cannot be read"):
        convert_gguf(gguf_file, tmp_path)


def test_a_file_that_is_no_gguf_is_refused_in_a_sentence(tmp_path: Path) -> None:
    gguf_file = tmp_path / "tiny.gguf"
    gguf_file.write_bytes(b"<html>" * 100)
    with pytest.raises(ModelError, match="magic"):
        convert_gguf(gguf_file, tmp_path)


def words(folder: Path, text: str) -> list[str]:
    """Return how a text is cut before the merges."""
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert library.pre_tokenizer is not None
    return [text[start:end] for _, (start, end) in library.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm", ["don", "'t", " ", "1", "2", "3", "4", "!!", " ", " x", "\n", "\n", "y"]),
        ("gpt-2", ["don", "'t", " 1234", "!!", " ", " x", "\n", "\n", "y"]),
        ("default", ["don", "'t", " 1234", "!!", " ", " x", "\n", "\n", "y"]),
        ("llama-bpe", ["don", "'t", " ", "123", "4", "!!", " ", " x", "\n\n", "y"]),
    ],
)
def test_words_are_cut_the_way_the_file_names(
    convert: Convert, name: str, expected: list[str]
) -> None:
    folder = convert(changes={"tokenizer.ggml.pre": name})
    assert words(folder, "don't 1234!!  x\n\ny") == expected


@pytest.mark.parametrize(
    ("changes", "has_bos"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, True),
        ({"tokenizer.ggml.add_bos_token": False}, False),
        ({"tokenizer.ggml.add_bos_token": None}, False),
        ({"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}, True),
    ],
)
def test_a_bare_text_gets_a_start_token_where_the_file_says_so(
    convert: Convert, changes: dict[str, Any], has_bos: bool
) -> None:
    tokenizer = Tokenizer.load(convert(changes=changes))
    text = tokenizer.encode("the")
    assert tokenizer.encode("the", add_special_tokens=True) == ([1] if has_bos else []) + text


def test_the_end_of_a_turn_ends_a_turn(convert: Convert) -> None:
    folder = convert(changes={"tokenizer.ggml.eot_token_id": 0})
    assert Tokenizer.load(folder).eos_token_ids == {0, 2}


def test_a_user_defined_token_is_found_before_the_merges_and_is_text(convert: Convert) -> None:
    num_tokens = 300
    types = [3] * len(SPECIAL_TOKENS) + [1] * (num_tokens - len(SPECIAL_TOKENS))
    types[-1] = 4
    tokenizer = Tokenizer.load(convert(changes={"tokenizer.ggml.token_type": types}))
    last = tokenizer.token_text(num_tokens - 1)
    assert tokenizer.encode(f"zz{last}zz")[2] == num_tokens - 1
    assert tokenizer.decode([num_tokens - 1]) == last


@pytest.fixture(scope="module")
def gpt_2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    base = tmp_path_factory.mktemp("gpt2")
    source = write_tiny_llama(base / "source")
    gguf_file = write_tiny_gguf(
        base / "tiny.gguf", source, changes={"tokenizer.ggml.pre": "llama-bpe"}
    )
    convert_gguf(gguf_file, base)
    return Tokenizer.load(base)


@given(text=st.text(max_size=20))
def test_the_llama_3_words_lose_no_character(gpt_2_tokenizer: Tokenizer, text: str) -> None:
    assert gpt_2_tokenizer.decode(gpt_2_tokenizer.encode(text)) == text
