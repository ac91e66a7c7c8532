"""The kernels are compiled for one signature, whatever a folder or a caller hands them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specdec.errors import ModelError
from specdec.models.base import AFTER_NORM, Inside
from specdec.models.portable import PortableModel, numba_kernels
from tests.models.tiny import write_tiny_llama

ROOT = Path(__file__).parents[2]
IDS = [5, 17, 3, 99, 42]
PROGRAM = """
import sys, numpy
from pathlib import Path
from specdec.models.portable import PortableModel
folder, out = map(Path, sys.argv[1:])
model = PortableModel.load(folder)
numpy.save(out, model.forward([5, 17, 3, 99, 42], model.new_cache()))
"""


def logits_of(folder: Path) -> np.ndarray:
    model = PortableModel.load(folder)
    return model.forward(IDS, model.new_cache())


def changed(folder: Path, **changes: object) -> Path:
    write_tiny_llama(folder, layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def start(folder: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(cache.with_suffix(".npy"))],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)},
    )


def test_models_of_any_number_types_share_one_cache_on_disk(tmp_path: Path) -> None:
    """An integer for `rms_norm_eps` once made a second signature, whose cache crashed readers."""
    folders = [changed(tmp_path / "usual"), changed(tmp_path / "whole", rms_norm_eps=1)]
    expected = [logits_of(folder) for folder in folders]
    caches = [tmp_path / "usual first", tmp_path / "whole first"]
    for order in ([0, 1], [1, 0], [1, 0]):  # compiled for the one, then loaded by the other
        running = [start(folders[i], cache) for i, cache in zip(order, caches, strict=True)]
        assert [process.wait() for process in running] == [0, 0]
        for i, cache in zip(order, caches, strict=True):
            assert np.array_equal(np.load(cache.with_suffix(".npy")), expected[i])
    for cache in caches:
        files = sorted(path.name.split(".")[1] for path in cache.rglob("*.nb*"))
        assert [name.split("-")[0] for name in files] == ["decode", "decode"]  # index and code


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"rope_theta": 10000}, {}),
        ({"rope_theta": 500}, {"rope_theta": 500.0}),
        ({"head_dim": None, "num_key_value_heads": 2}, {}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000}},
        ),
    ],
)
def test_a_number_of_another_type_means_the_same(
    tmp_path: Path, given: dict[str, object], meant: dict[str, object]
) -> None:
    got, expected = changed(tmp_path / "given", **given), changed(tmp_path / "meant", **meant)
    assert np.array_equal(logits_of(got), logits_of(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 8.0}, "head_dim as 8.0, which is no whole number"),
        ({"head_dim": 0}, "head_dim as 0, which is no whole number"),
        ({"hidden_size": "32"}, "hidden_size as '32', which is no whole number"),
        ({"num_attention_heads": True}, "num_attention_heads as True, which is no whole number"),
        ({"num_attention_heads": 99, "head_dim": None}, "head_dim as 0, which is no whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers as -1, which is no whole number"),
        ({"max_position_embeddings": 2e3}, "max_position_embeddings as 2000.0, which is no whole"),
        ({"vocab_size": None}, "has no 'vocab_size'"),
        ({"num_key_value_heads": 3}, "4 heads of model cannot share 3 key heads"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps as '1e-5', which is no number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps as nan, which is no number"),
        ({"rms_norm_eps": False}, "rms_norm_eps as False, which is no number"),
        ({"rope_theta": [1e4]}, r"rope_theta as \[10000.0\], which is no number"),
        ({"rope_scaling": "linear"}, "rotary scaling that is no object"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor as '2', which is no number"),
        ({"rope_scaling": {"type": "llama3", "factor": 2}}, "has no 'low_freq_factor'"),
    ],
)
def test_what_is_no_number_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        PortableModel.load(changed(tmp_path / "model", **changes))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the model itself hands to `decode`, and what a feature head adds to it."""
    kernels = numba_kernels()
    kept: list[object] = []

    def keep(*arguments: object) -> np.ndarray:
        kept[:] = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        return decode(*arguments)

    decode = kernels.decode
    model = PortableModel.load(write_tiny_llama(tmp_path, layers=2))
    inside = Inside((0, AFTER_NORM))
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "decode", keep)
        model.forward(IDS, model.new_cache(), parents=[-1, 0, 0, 1, 1], inside=inside)
    rows, qkv = kept[0], kept[4]
    width = 2 * rows.shape[1]
    kept[-2:] = [np.ones((count, width), np.float32) for count in (qkv.shape[1], len(rows))]
    return kept


def unaligned(array: np.ndarray) -> np.ndarray:
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def frozen(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def with_gaps(array: np.ndarray) -> np.ndarray:
    return np.repeat(array, 2, axis=-1)[..., ::2]


MADE_OTHERWISE = {
    "wider": lambda array: array.astype(np.float64 if array.dtype.kind == "f" else np.uint64),
    "narrower": lambda array: array.astype(np.float16 if array.dtype.kind == "f" else np.int32),
    "swapped bytes": lambda array: array.astype(array.dtype.newbyteorder()),
    "columns first": np.asfortranarray,
    "with gaps": with_gaps,
    "unaligned": unaligned,
    "frozen": frozen,
    "deeper": lambda array: array[np.newaxis],
    "a list": lambda array: array.tolist(),
}


@pytest.mark.parametrize("how", MADE_OTHERWISE)
def test_decode_refuses_every_array_made_otherwise(arguments: list[object], how: str) -> None:
    decode = numba_kernels().decode
    for place, argument in enumerate(arguments):
        if not isinstance(argument, np.ndarray):
            continue
        with np.errstate(all="ignore"):  # the unfilled part of a cache holds anything
            other = MADE_OTHERWISE[how](argument)
        if how == "columns first" and other.flags.c_contiguous:  # one dimension
            continue
        with pytest.raises((TypeError, NotImplementedError, ValueError)):
            decode(*arguments[:place], other, *arguments[place + 1 :])
    assert len(decode.signatures) == 1


def test_decode_takes_scalars_of_any_number_type(arguments: list[object]) -> None:
    decode = numba_kernels().decode

    def run(arguments: list[object]) -> np.ndarray:
        return decode(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments))

    expected = run(arguments)
    for place, argument in enumerate(arguments):
        if isinstance(argument, int):
            for kind in (float, np.int32, np.uint8, np.float32):
                got = run([*arguments[:place], kind(argument), *arguments[place + 1 :]])
                assert np.array_equal(got, expected)
        elif isinstance(argument, float):
            for whole in (1, np.int8(1), np.float32(1)):
                got = run([*arguments[:place], whole, *arguments[place + 1 :]])
                assert np.array_equal(got, run([*arguments[:place], 1.0, *arguments[place + 1 :]]))
    assert len(decode.signatures) == 1
