"""The portable backend: right, bitwise independent of how tokens are fed, and safe in threads."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from specdec.acceptance import Draft
from specdec.errors import ModelError
from specdec.models import cache as cache_module
from specdec.models import portable
from specdec.models.base import AFTER_NORM, Inside
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
CONTEXT = [*PROMPT, 49]
tokens = strategies.integers(0, 250)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PortableModel:
    return PortableModel.load(write_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2))


@pytest.fixture(params=["numba", "numpy"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on both decoding paths; the second is what a machine without Numba has."""
    if request.param == "numpy":
        monkeypatch.setattr(portable, "numba_kernels", lambda: None)
    else:
        assert portable.numba_kernels() is not None, "Numba is in requirements.txt"
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


def random_tree(num_nodes: int, seed: int) -> Draft:
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(max(-1, node - 9), node)) for node in range(num_nodes)]
    ids = rng.integers(0, 250, num_nodes).tolist()
    return Draft(tuple(ids), tuple(parents), (None,) * num_nodes)


def grown(
    model: PortableModel, whole: Draft, sizes: list[int], cached: CachedContext
) -> NDArray[np.float32]:
    """Score a tree after the prompt, some nodes more at a time."""
    cached.prefill(CONTEXT)
    for size in sizes:
        part = Draft(whole.token_ids[:size], whole.parents[:size], (None,) * size)
        rows = cached.score(CONTEXT, part)
        assert rows.shape == (1 + size, model.vocab_size)
        assert cached.cache.length == len(CONTEXT) + size
    return rows


@pytest.mark.parametrize("num_nodes", [12, 64, 90])
@pytest.mark.parametrize("step", [1, 7, 100])
def test_a_grown_tree_gives_bitwise_the_logits_of_each_path_alone(
    model: PortableModel, kernels: str, num_nodes: int, step: int
) -> None:
    whole = random_tree(num_nodes, step)
    cached = CachedContext(model)
    sizes = [*range(0, num_nodes, step), num_nodes]
    rows = grown(model, whole, sizes, cached)
    at_once = CachedContext(model)
    at_once.prefill(CONTEXT)
    assert np.array_equal(at_once.score(CONTEXT, whole), rows)
    deepest = max(whole.leaves, key=lambda leaf: len(whole.path_to(leaf)))
    for leaf in {deepest, *whole.leaves[:4]}:
        path = whole.path_to(leaf)
        alone = one_by_one(model, [CONTEXT[-1], *whole.tokens_to(leaf)])
        assert np.array_equal(rows[[0, *(node + 1 for node in path)]], alone)
    context = [*CONTEXT, *whole.tokens_to(deepest), 7]
    again = random_tree(9, 1)
    got = cached.score(context, again)
    for node in range(-1, len(again)):
        path = [*context[len(PROMPT) :], *again.tokens_to(node)]
        assert np.array_equal(got[node + 1], one_by_one(model, path)[-1])


@settings(max_examples=15)
@given(
    num_nodes=strategies.integers(1, 30), seed=strategies.integers(0, 99), cuts=strategies.data()
)
def test_a_tree_grown_in_any_steps_is_the_tree_fed_at_once(
    model: PortableModel, num_nodes: int, seed: int, cuts: strategies.DataObject
) -> None:
    whole = random_tree(num_nodes, seed)
    sizes = cuts.draw(strategies.sets(strategies.integers(0, num_nodes - 1)))
    rows = grown(model, whole, [*sorted(sizes), num_nodes], CachedContext(model))
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    assert np.array_equal(model.forward(CONTEXT[-1:], cache)[0], rows[0])
    assert np.array_equal(model.forward(whole.token_ids, cache, parents=whole.parents), rows[1:])


def test_numpy_decoding_is_bitwise_independent_of_the_feeding_too(
    model: PortableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_numba = one_by_one(model, list(range(40)))
    monkeypatch.setattr(portable, "numba_kernels", lambda: None)
    alone = one_by_one(model, list(range(40)))
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    assert np.array_equal(model.forward(list(range(40)), cache), alone)
    assert np.abs(alone - with_numba).max() < 1e-4


def test_the_accepted_path_of_a_tree_is_kept_bitwise(model: PortableModel, kernels: str) -> None:
    """Rounds that end on any branch leave a cache that equals a plain one."""
    context = list(CONTEXT)
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
    monkeypatch.setattr(cache_module, "_FIRST_CAPACITY", 16)
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
    inside = Inside(attention=True)
    model.forward([1, 2, 3], cache, parents=[-1, 0, 0], inside=inside)
    assert len(inside.attention_weights) == 2
    for weights in inside.attention_weights:
        assert weights.shape == (model.llama.config.num_heads, 3, len(PROMPT) + 3)
        assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=1e-5)
        first_fed = len(PROMPT)
        assert not weights[:, 0, first_fed + 1 :].any()
        assert not weights[:, 2, first_fed + 1].any()  # not a sibling


ASKED = (1, AFTER_NORM, 0, 1)


def hidden_alone(model: PortableModel, ids: list[int]) -> NDArray[np.float32]:
    """Return the hidden states of each of `ids`, fed alone after the prefilled prompt."""
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    inside = Inside(ASKED)
    for token_id in ids:
        model.forward([token_id], cache, inside=inside)
    assert inside.first == len(PROMPT)
    return inside.hidden


def test_hidden_states_change_no_bit_and_depend_on_no_company(
    model: PortableModel, kernels: str
) -> None:
    ids, parents = [8, 9, 10, 11, 12, 13], [-1, -1, 1, 0, 2, 2]
    fed, shown, parts = (model.new_cache() for _ in range(3))
    for cache in (fed, shown, parts):
        model.prefill(PROMPT, cache)
    inside, of_parts = Inside(ASKED), Inside(ASKED)
    logits = model.forward(ids, shown, parents=parents, inside=inside)
    assert np.array_equal(logits, model.forward(ids, fed, parents=parents))
    assert inside.hidden.shape == (6, 4, model.llama.config.hidden_size)
    model.forward(ids[:2], parts, parents=parents[:2], inside=of_parts)
    model.forward(ids[2:], parts, parents=parents, inside=of_parts)
    assert np.array_equal(of_parts.hidden, inside.hidden)
    assert np.array_equal(inside.hidden[:, 0], inside.hidden[:, 3])
    for path in ([0, 3], [1, 2, 4], [1, 2, 5]):
        alone = hidden_alone(model, [ids[node] for node in path])
        assert np.array_equal(inside.hidden[path], alone)
    head = model.llama.weights.head
    assert np.abs(inside.hidden[:, 1] @ head.T - logits).max() < 1e-4


def test_hidden_states_are_those_of_numpy(
    model: PortableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_numba = hidden_alone(model, list(range(20)))
    monkeypatch.setattr(portable, "numba_kernels", lambda: None)
    assert np.abs(hidden_alone(model, list(range(20))) - with_numba).max() < 1e-4


def test_the_hidden_states_of_a_prompt(model: PortableModel, kernels: str) -> None:
    """By the kernels and by BLAS, in chunks."""
    ids = np.random.default_rng(5).integers(0, 250, 300).tolist()
    decoded = Inside(ASKED)
    cache = model.new_cache()
    for start in range(0, len(ids), 60):
        model.forward(ids[start : start + 60], cache, inside=decoded)
    for length in (50, 300):
        prompt = Inside(ASKED)
        model.prefill(ids[:length], model.new_cache(), inside=prompt)
        assert prompt.hidden.shape == (length, 4, model.llama.config.hidden_size)
        assert np.abs(prompt.hidden - decoded.hidden[:length]).max() < 1e-4
        if length <= portable.MAX_KERNEL_ROWS and kernels == "numba":
            assert np.array_equal(prompt.hidden, decoded.hidden[:length])


def test_hidden_states_and_attention_can_be_had_at_once(model: PortableModel) -> None:
    ids = np.random.default_rng(6).integers(0, 250, 300).tolist()
    whole, hidden = Inside(ASKED, attention=True), Inside(ASKED)
    cache = model.new_cache()
    model.prefill(ids, cache, inside=whole)
    model.forward([1, 2, 3], cache, parents=[-1, -1, 1], inside=whole)
    cache.truncate(len(ids))
    model.forward([1, 2, 3], cache, parents=[-1, -1, 1], inside=hidden)
    assert np.abs(whole.hidden[300:] - hidden.hidden).max() < 1e-4
    for weights in whole.attention_weights:
        assert weights.shape == (model.llama.config.num_heads, 303, 303)
        assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=1e-5)
        assert not np.triu(weights, 1).any()
        assert not weights[:, 301, 300].any()  # not a sibling


def test_layers_that_are_not_run_cannot_be_asked_for(model: PortableModel, tmp_path: Path) -> None:
    fewer = PortableModel.load(write_tiny_llama(tmp_path, layers=4)).without_middle_layers()
    assert fewer.cannot_give((0, 2, AFTER_NORM), attention=True) is None
    for layer in (3, -2):
        assert "runs layers 0 to 2; it has no layer" in fewer.cannot_give((layer,), attention=False)
        with pytest.raises(ModelError, match="it has no layer"):
            fewer.forward([1], fewer.new_cache(), inside=Inside((layer,)))
        with pytest.raises(ModelError, match="it has no layer"):
            fewer.prefill([1], fewer.new_cache(), inside=Inside((layer,)))


def test_positions_past_the_context_are_refused(model: PortableModel, kernels: str) -> None:
    """The kernels would read past the end of the table of rotations."""
    short = replace(model.llama.config, context_length=10)
    short_model = replace(model, llama=replace(model.llama, config=short))
    cache = short_model.new_cache()
    short_model.prefill(PROMPT, cache)
    with pytest.raises(ModelError, match="reads 10 tokens at most and was given 11"):
        short_model.forward([1, 2, 3, 4], cache)
    with pytest.raises(ModelError, match="reads 10 tokens"):
        short_model.prefill([1] * 99, cache)
    assert cache.length == len(PROMPT)
    short_model.forward([1, 2, 3, 4], cache, parents=[-1, 0, 1, -1])  # no node is too deep


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
    assert fewer.llama is four.llama
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
    assert np.array_equal(PortableModel.load(folder).llama.weights.final_norm, expected)


def spoil(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "of type 'qwen2'"),
        ({"attention_bias": True}, "adds no biases"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rotary scaling of type 'longrope'"),
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
