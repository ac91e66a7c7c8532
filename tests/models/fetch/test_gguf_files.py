"""Every GGUF file of the table is converted and opens, or is refused in one sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from specdec.errors import ModelError
from specdec.models.fetch.gguf_folder import convert_gguf
from specdec.models.fetch.gguf_tokenizer import ENDS_OF_A_TURN
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from tests.models.fetch.gguf_files import OBEYED, REFUSED, G, L
from tests.models.fetch.tiny_gguf import _metadata, write_tiny_gguf
from tests.models.tiny import tiny_vocabulary, write_tiny_llama

IDS = [5, 17, 3, 99, 42]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("original"), layers=3)


def converted(tmp_path: Path, source: Path, **options: Any) -> Path:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", source, **options)
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_gguf(file, folder)
    return folder


def logits_of(folder: Path) -> np.ndarray:
    model = PortableModel.load(folder)
    return model.forward(IDS, model.new_cache())


@pytest.mark.parametrize(("words", "changes"), OBEYED, ids=[row[0] for row in OBEYED])
def test_a_file_that_is_converted_is_the_same_model(
    words: str, changes: dict[str, Any], original: Path, tmp_path: Path
) -> None:
    kv_heads = 4 if "head_count_kv" in words else 2
    source = write_tiny_llama(tmp_path / "source", kv_heads=kv_heads)
    folder = converted(tmp_path, source, changes=changes) if kv_heads == 2 else None
    if folder is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.models.fetch.tiny_gguf.KV_HEADS", 4)
            folder = converted(tmp_path, source, changes=changes)
    config = json.loads((source / "config.json").read_text())
    scaling = json.loads((folder / "config.json").read_text()).get("rope_scaling")
    length = changes.get(L + "context_length", 2048)
    (source / "config.json").write_text(
        json.dumps(config | {"rope_scaling": scaling, "max_position_embeddings": length})
    )
    assert np.array_equal(logits_of(folder), logits_of(source))
    assert Tokenizer.load(folder).fingerprint == Tokenizer.load(source).fingerprint
    assert 2 in Tokenizer.load(folder).eos_token_ids


@pytest.mark.parametrize(("words", "options", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_file_that_is_not_converted_says_why(
    words: str, options: dict[str, Any], says: str, original: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says) as refusal:
        PortableModel.load(converted(tmp_path, original, **options))
    assert len(str(refusal.value).splitlines()) == 1


def test_the_factor_of_a_linear_scaling_counts(original: Path, tmp_path: Path) -> None:
    linear = {L + "rope.scaling.type": "linear"}
    factors = {"plain": None, "factor": 2.0, "scale_linear": 2.0}
    names = {"factor": L + "rope.scaling.factor", "scale_linear": L + "rope.scale_linear"}
    said = {}
    for name, factor in factors.items():
        place = tmp_path / name
        place.mkdir()
        changes = linear if factor is None else linear | {names[name]: factor}
        said[name] = logits_of(converted(place, original, changes=changes))
    assert np.array_equal(said["factor"], said["scale_linear"])
    assert np.array_equal(said["plain"], logits_of(original))
    assert not np.array_equal(said["plain"], said["factor"])


@pytest.mark.parametrize("kinds", ["none", "normal", "user-defined"])
@pytest.mark.parametrize("end", sorted(ENDS_OF_A_TURN - {"<|im_end|>"}))
def test_an_end_of_a_turn_ends_it_by_its_name(
    end: str, kinds: str, original: Path, tmp_path: Path
) -> None:
    tokens = [*tiny_vocabulary(300)[0][:-1], end]
    kind = {"normal": 1, "user-defined": 4}.get(kinds)
    types = None if kind is None else [3, 3, 3, *[1] * 296, kind]
    merges = _metadata()[G + "merges"][:-1]
    changes = {G + "tokens": tokens, G + "token_type": types, G + "merges": merges}
    tokenizer = Tokenizer.load(converted(tmp_path, original, changes=changes))
    assert tokenizer.eos_token_ids >= {2, 299}
    assert tokenizer.decode([299]) == ""
    assert 299 not in tokenizer.encode(end)


@pytest.mark.parametrize("pre", [None, "default", "llama-bpe", "llama3"])
def test_a_vocabulary_of_llama_3_is_never_cut_as_gpt_2(
    pre: str | None, original: Path, tmp_path: Path
) -> None:
    tokens = ["<|begin_of_text|>", *tiny_vocabulary(300)[0][1:]]
    changes = {G + "tokens": tokens, G + "pre": pre, G + "add_bos_token": None}
    tokenizer = Tokenizer.load(converted(tmp_path, original, changes=changes))
    text = tokenizer.encode("12345")
    assert tokenizer.encode("12345", add_special_tokens=True) == [1, *text]
    cut = json.loads((tmp_path / "converted" / "tokenizer.json").read_text())["pre_tokenizer"]
    assert "{1,3}" in json.dumps(cut)


WIDE = {L + "embedding_length": 256, L + "rope.dimension_count": 64}
KINDS = [kind for kind in gguf.GGMLQuantizationType if kind.name not in ("F32",)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_quantisation_that_the_library_unpacks_is_converted(
    kind: gguf.GGMLQuantizationType, tmp_path: Path
) -> None:
    """Of the others it is said which one it is; the weights here are random bytes."""
    source = write_tiny_llama(tmp_path / "source", width=256, heads=4, kv_heads=2, ffn=256)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = 300, 256
    raw = np.random.default_rng(0).integers(0, 60, (rows, columns // block * size), np.uint8)
    try:
        expected = dequantize(raw, kind)
    except NotImplementedError:
        expected = raw.view(np.float64).astype(np.float32) if kind.name == "F64" else None
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    for key, value in (_metadata() | WIDE).items():
        add(writer, key, value)
    writer.add_tensor("token_embd.weight", raw, raw_shape=raw.shape, raw_dtype=kind)
    for name in names_of(source):
        writer.add_tensor(name, np.zeros(shape_of(name), np.float32))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    folder = tmp_path / "converted"
    folder.mkdir()
    if expected is None:
        with pytest.raises(ModelError, match=f"quantisation {kind.name} "):
            convert_gguf(tmp_path / "tiny.gguf", folder)
        return
    convert_gguf(tmp_path / "tiny.gguf", folder)
    found = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert np.array_equal(found, expected, equal_nan=True)


def add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds |= {str: writer.add_string, list: writer.add_array}
    kinds[type(value)](key, value)


def names_of(source: Path) -> list[str]:
    blocks = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
    blocks += ("ffn_gate", "ffn_up", "ffn_down")
    return ["output_norm.weight"] + [
        f"blk.{layer}.{name}.weight" for layer in range(3) for name in blocks
    ]


def shape_of(name: str) -> tuple[int, ...]:
    part = name.split(".")[-2]
    sizes = {"attn_k": (128, 256), "attn_v": (128, 256), "ffn_gate": (64, 256)}
    sizes |= {"ffn_up": (64, 256), "ffn_down": (256, 64)}
    return (256,) if part.endswith("norm") else sizes.get(part, (256, 256))


ODD: list[Any] = [None, True, False, 0, 1, 2**31, 2**32 - 1, 0.5, 1e30, float("nan"), "", "linear"]
ODD += [[1], [0.5], ["a"], "x" * 500]
NAMES = [
    *_metadata(),
    L + "rope.scaling.type",
    L + "rope.scaling.factor",
    L + "attention.key_length",
]


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(NAMES), value=st.sampled_from(ODD))
def test_no_value_of_the_metadata_ends_in_a_traceback(
    name: str, value: object, original: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        made = converted(folder, original, changes={name: value})
        logits_of(made)
        Tokenizer.load(made)
    except ModelError:
        return


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(place=st.integers(8, 600), value=st.sampled_from([0, 1, 255, 2**32 - 1, 2**63, 2**64 - 1]))
def test_no_bytes_of_the_header_end_in_a_traceback_or_hang(
    place: int, value: int, original: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    file = write_tiny_gguf(folder / "tiny.gguf", original)
    data = bytearray(file.read_bytes())
    data[place : place + 8] = struct.pack("<Q", value)
    file.write_bytes(data)
    try:
        convert_gguf(file, folder)
    except ModelError:
        return
