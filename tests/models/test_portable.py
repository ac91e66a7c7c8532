"""The portable backend: right, bitwise independent of how tokens are fed, and safe in threads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from specdec.acceptance import Draft
from specdec.errors import ModelError
from specdec.models import portable
from specdec.models.context import CachedContext
from specdec.models.portable import PortableModel
from tests.models.tiny import write_tiny_llama

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PROMPT = [5, 17, 3, 99, 42, 17, 3]
tokens = strategies.integers(0, 250)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PortableModel:
    return PortableModel.load(write_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2))


@pytest.fixture(params=["numba", "numpy"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on both decoding paths; the second is what a machine without Numba has."""
    if request.param == "numpy":
        monkeypatch.setattr(portable, "kernels", None)
    else:
        assert portable.kernels is not None, "Numba is in requirements.txt"
    return request.param


def reference_logits(folder: Path, ids: list[int]) -> NDArray[np.float64]:
    """A Llama in float64, one formula after the other, without a cache: the textbook."""
    c = json.loads((folder / "config.json").read_text())
    w = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    dim = c["hidden_size"] // heads
    speeds = c["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
    scaling = c.get("rope_scaling")
    if scaling:
        for i, speed in enumerate(speeds):
            wavelength = 2 * np.pi / speed
            old = scaling["original_max_position_embeddings"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            if wavelength > old / low:
                speeds[i] = speed / scaling["factor"]
            elif wavelength > old / high:
                smooth = (old / wavelength - low) / (high - low)
                speeds[i] = (1 - smooth) * speed / scaling["factor"] + smooth * speed
    angles = np.outer(np.arange(len(ids)), np.concatenate([speeds, speeds]))

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c["rms_norm_eps"]) * weight

    def turn(x):  # [positions, heads, dim]
        half = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], -1)
        return x * np.cos(angles)[:, None] + half * np.sin(angles)[:, None]

    x = w["model.embed_tokens.weight"][ids]
    hidden_from = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        h = norm(x, w[name + "input_layernorm.weight"])
        q = turn((h @ w[name + "self_attn.q_proj.weight"].T).reshape(len(ids), heads, dim))
        k = turn((h @ w[name + "self_attn.k_proj.weight"].T).reshape(len(ids), kv_heads, dim))
        v = (h @ w[name + "self_attn.v_proj.weight"].T).reshape(len(ids), kv_heads, dim)
        k, v = k.repeat(heads // kv_heads, 1), v.repeat(heads // kv_heads, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim) + hidden_from
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(len(ids), -1)
        x = x + mixed @ w[name + "self_attn.o_proj.weight"].T
        h = norm(x, w[name + "post_attention_layernorm.weight"])
        gate, up = (h @ w[name + f"mlp.{which}_proj.weight"].T for which in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[name + "mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, w["model.norm.weight"]) @ head.T


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("rope_scaling", [None, LLAMA3])
def test_it_agrees_with_the_textbook(
    tmp_path: Path, tie: bool, rope_scaling: dict | None, kernels: str
) -> None:
    folder = write_tiny_llama(tmp_path, layers=2, tie=tie, rope_scaling=rope_scaling, seed=3)
    model = PortableModel.load(folder)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 90).tolist()
    expected = reference_logits(folder, ids)
    cache = model.new_cache()
    model.prefill(ids[:80], cache)
    got = model.forward(ids[80:], cache)
    assert np.abs(got - expected[80:]).max() < 1e-3
    decoded = model.forward(ids[:64], model.new_cache())
    assert np.abs(decoded - expected[:64]).max() < 1e-3


def one_by_one(model: PortableModel, ids: list[int]) -> NDArray[np.float32]:
    """Return the logits after each of `ids`, fed alone after the prefilled prompt."""
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    return np.concatenate([model.forward([token_id], cache) for token_id in ids])


@settings(max_examples=15)
@given(ids=strategies.lists(tokens, min_size=1, max_size=40), cuts=strategies.data())
def test_a_chain_gives_bitwise_the_logits_of_single_tokens(
    model: PortableModel, ids: list[int], cuts: strategies.DataObject
) -> None:
    alone = one_by_one(model, ids)
    cache, start = model.new_cache(), 0
    model.prefill(PROMPT, cache)
    while start < len(ids):
        end = cuts.draw(strategies.integers(start + 1, len(ids)))
        assert np.array_equal(model.forward(ids[start:end], cache), alone[start:end])
        start = end


@settings(max_examples=15)
@given(
    ids=strategies.lists(tokens, min_size=1, max_size=12),
    shape=strategies.data(),
)
def test_a_tree_gives_bitwise_the_logits_of_each_path_alone(
    model: PortableModel, ids: list[int], shape: strategies.DataObject
) -> None:
    parents = [shape.draw(strategies.integers(-1, node - 1)) for node in range(len(ids))]
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    rows = model.forward(ids, cache, parents=parents)
    for node in range(len(ids)):
        path, above = [node], parents[node]
        while above >= 0:
            path.insert(0, above)
            above = parents[above]
        assert np.array_equal(rows[node], one_by_one(model, [ids[i] for i in path])[-1])


def test_numpy_decoding_is_bitwise_independent_of_the_feeding_too(
    model: PortableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_numba = one_by_one(model, list(range(40)))
    monkeypatch.setattr(portable, "kernels", None)
    alone = one_by_one(model, list(range(40)))
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    assert np.array_equal(model.forward(list(range(40)), cache), alone)
    assert np.abs(alone - with_numba).max() < 1e-4


def test_the_accepted_path_of_a_tree_is_kept_bitwise(model: PortableModel, kernels: str) -> None:
    """Rounds that end on any branch leave a cache that equals a plain one."""
    context = [*PROMPT, 49]
    cached = CachedContext(model)
    cached.prefill(context)
    tree = Draft((8, 9, 10, 11, 12), (-1, -1, 1, 0, 2), (None,) * 5)
    for path in ([9, 10, 12, 50], [8, 11, 51], [52], [9, 53], [8, 54]):
        cached.score(context, tree)
        context += path
    got = cached.score(context)[0]
    assert np.array_equal(got, one_by_one(model, context[len(PROMPT) :])[-1])


def test_a_short_prompt_is_bitwise_what_decoding_makes_of_it(model: PortableModel) -> None:
    ids = np.random.default_rng(2).integers(0, 250, portable.MAX_KERNEL_ROWS).tolist()
    prompt, decoded = model.new_cache(), model.new_cache()
    model.prefill(ids, prompt)
    for token_id in ids:
        model.forward([token_id], decoded)
    assert prompt.length == decoded.length == len(ids)
    assert np.array_equal(prompt.keys[..., : len(ids)], decoded.keys[..., : len(ids)])
    assert np.array_equal(prompt.values[:, :, : len(ids)], decoded.values[:, :, : len(ids)])


def test_a_long_prompt_is_read_in_chunks(model: PortableModel) -> None:
    ids = np.random.default_rng(3).integers(0, 250, 300).tolist()
    prompt, decoded = model.new_cache(), model.new_cache()
    model.prefill(ids, prompt)
    for start in range(0, len(ids), 60):
        model.forward(ids[start : start + 60], decoded)
    got, expected = model.forward([1, 2], prompt), model.forward([1, 2], decoded)
    assert np.abs(got - expected).max() < 1e-4  # BLAS adds in another order


def test_the_cache_grows_past_its_first_capacity(
    model: PortableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "_FIRST_CAPACITY", 16)
    ids = np.random.default_rng(1).integers(0, 250, 40).tolist()
    small, large = model.new_cache(), model.new_cache()
    model.prefill(ids[:10], small)
    large.reserve(500)
    model.prefill(ids[:10], large)
    assert small.keys.shape[3] == 16
    for start in range(10, 40, 3):
        fed = ids[start : start + 3]
        assert np.array_equal(model.forward(fed, small), model.forward(fed, large))
    assert 16 < small.keys.shape[3] < large.keys.shape[3]


def test_attention_weights_are_shares_of_what_a_token_sees(model: PortableModel) -> None:
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    layers: list[NDArray[np.float32]] = []
    model.forward([1, 2, 3], cache, parents=[-1, 0, 0], attention=layers)
    assert len(layers) == 2
    for weights in layers:
        assert weights.shape == (model.config.num_heads, 3, len(PROMPT) + 3)
        assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=1e-5)
        first_fed = len(PROMPT)
        assert not weights[:, 0, first_fed + 1 :].any()
        assert not weights[:, 2, first_fed + 1].any()  # not a sibling


def test_a_reduced_head_says_only_its_tokens_and_says_them_alike(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, layers=2)
    whole = PortableModel.load(folder)
    kept = np.array([3, 7, 100, 255], np.int32)
    np.save(folder / "draft_token_ids.npy", kept)
    reduced = PortableModel.load(folder)
    got, expected = (m.forward(PROMPT, m.new_cache()) for m in (reduced, whole))
    assert got.shape == expected.shape
    assert got[:, kept] == pytest.approx(expected[:, kept], abs=1e-5)
    assert np.isneginf(np.delete(got, kept, axis=1)).all()


def test_layers_left_out_are_left_out(model: PortableModel, tmp_path: Path) -> None:
    four = PortableModel.load(write_tiny_llama(tmp_path, layers=4))
    fewer = four.without_middle_layers()
    assert len(fewer.layers) == 3
    assert fewer.weights is four.weights
    assert fewer.new_cache().keys.shape[0] == 3
    got, whole = (m.forward(PROMPT, m.new_cache()) for m in (fewer, four))
    assert np.abs(got - whole).max() > 0.01


def test_two_threads_may_run_at_once(model: PortableModel) -> None:
    """Numba's default threading layer would abort the process if both launched kernels."""
    expected = one_by_one(model, list(range(60)))
    got: list[NDArray[np.float32]] = []
    threads = [
        threading.Thread(target=lambda: got.append(one_by_one(model, list(range(60)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(np.array_equal(one, expected) for one in got)


def write_bfloat16(path: Path, bits: dict[str, NDArray[np.uint16]]) -> None:
    """Write a safetensors file by its definition: length, JSON header, bytes."""
    header, blob = {}, b""
    for name, values in bits.items():
        end = len(blob) + values.nbytes
        header[name] = {
            "dtype": "BF16",
            "shape": values.shape,
            "data_offsets": [len(blob), end],
        }
        blob += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    folder = write_tiny_llama(tmp_path, layers=1)
    tensors = load_file(folder / "model.safetensors")
    if dtype == "F16":
        save_file(
            {k: v.astype(np.float16) for k, v in tensors.items()}, folder / "model.safetensors"
        )
        expected = tensors["model.norm.weight"].astype(np.float16).astype(np.float32)
    else:
        bits = {k: (v.view(np.uint32) >> 16).astype("<u2") for k, v in tensors.items()}
        write_bfloat16(folder / "model.safetensors", bits)
        expected = (bits["model.norm.weight"].astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(PortableModel.load(folder).weights.final_norm, expected)


def spoil(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "of type 'qwen2'"),
        ({"attention_bias": True}, "without biases"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rotary scaling of type 'yarn'"),
        ({"num_hidden_layers": 9}, "lacks"),
        ({"intermediate_size": 99}, "has shape"),
    ],
)
def test_a_folder_that_cannot_be_run_says_why(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = write_tiny_llama(tmp_path, layers=1)
    spoil(folder, **changes)
    with pytest.raises(ModelError, match=message):
        PortableModel.load(folder)


def test_a_damaged_or_empty_folder_says_why(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "one", layers=1)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        PortableModel.load(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        PortableModel.load(folder)
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        PortableModel.load(tmp_path)
