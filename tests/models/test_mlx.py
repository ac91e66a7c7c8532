"""Models on MLX: the portable backend's numbers, rollback, reduced heads, and clear refusals.

The reference is `PortableModel`, written from the equations and not with MLX. Everything that
builds a folder with mlx-lm does so on `MLX_THREAD`, as the package itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.acceptance import Draft
from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import ModelError
from specdec.models import mlx
from specdec.models.base import Inside, LanguageModel, Logits, middle_layers
from specdec.models.context import CachedContext
from specdec.models.fetch import hub
from specdec.models.mlx import MlxModel
from specdec.models.mlx_thread import MLX_THREAD
from specdec.models.portable import PortableModel
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.models.tiny import write_tiny_llama

pytest.importorskip("mlx.core", reason="the mlx package is not installed")
pytest.importorskip("mlx_lm", reason="the mlx-lm package is not installed")
pytestmark = pytest.mark.mlx

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie": False},
    "llama3 scaling": {"rope_scaling": LLAMA3_SCALING},
    "five layers": {"layers": 5, "heads": 2, "kv_heads": 1},
}
SENTENCE = np.random.default_rng(7).integers(3, 300, 90).tolist()
HEAD_IDS = np.array([0, 2, 5, 77, 298], np.int32)
SMALL_CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def logits_of(model: LanguageModel, token_ids: list[int] = SENTENCE) -> Logits:
    """Feed a fresh cache at most 64 tokens at a time."""
    cache = model.new_cache()
    parts = [token_ids[start : start + 64] for start in range(0, len(token_ids), 64)]
    return np.concatenate([np.array(model.forward(part, cache)) for part in parts])


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def write_network(folder: Path, config: dict[str, Any]) -> Path:
    """Write random weights of any architecture that mlx-lm knows."""

    def write() -> None:
        from mlx_lm.utils import _get_classes, save_config, save_model

        network, arguments = _get_classes(config)
        save_model(folder, network(arguments.from_dict(config)))
        save_config(dict(config), folder / "config.json")

    MLX_THREAD.run(write)
    return folder


def write_quantised(source: Path, quantised: Path, restored: Path) -> None:
    """Write the 8-bit version of a folder, and that in full precision again."""

    def write() -> None:
        from mlx_lm.utils import (
            dequantize_model,
            load_model,
            quantize_model,
            save_config,
            save_model,
        )

        model, config = quantize_model(*load_model(source), 32, 8)
        save_model(quantised, model)
        save_config(config, quantised / "config.json")
        save_model(restored, dequantize_model(load_model(quantised)[0]))

    MLX_THREAD.run(write)
    (restored / "config.json").write_text((source / "config.json").read_text())


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"), **KINDS[request.param])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MlxModel:
    return MlxModel.load(write_tiny_llama(tmp_path_factory.mktemp("llama")), "tiny")


def test_logits_are_those_of_the_portable_backend(folder: Path) -> None:
    mlx_model, portable = MlxModel.load(folder, "tiny"), PortableModel.load(folder, "tiny")
    logits = logits_of(mlx_model)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, logits_of(portable), atol=1e-3)
    assert mlx_model.vocab_size == portable.vocab_size == logits.shape[1]
    assert mlx_model.context_length == portable.context_length == 2048


def test_skipping_layers_is_what_it_is_on_the_portable_backend(folder: Path) -> None:
    whole = MlxModel.load(folder, "tiny")
    before = logits_of(whole)
    skipped = logits_of(whole.without_middle_layers())
    portable = PortableModel.load(folder, "tiny").without_middle_layers()
    np.testing.assert_allclose(skipped, logits_of(portable), atol=1e-3)
    assert np.abs(skipped - before).max() > 1
    np.testing.assert_array_equal(logits_of(whole), before)


def test_thirty_layers_lose_the_six_that_were_measured_best() -> None:
    assert middle_layers(30) == range(13, 19)


@given(num_layers=st.integers(1, 200))
def test_skipped_layers_lie_inside_and_leave_most(num_layers: int) -> None:
    skipped = middle_layers(num_layers)
    assert 0 <= skipped.start <= skipped.stop <= num_layers
    assert len(skipped) < num_layers
    assert num_layers < 2 or len(skipped) == max(1, num_layers // 5)


def test_rotary_settings_are_read_as_transformers_5_writes_them(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)

    def rename(config: dict[str, Any]) -> None:
        del config["rope_theta"], config["rope_scaling"]
        config["rope_parameters"] = LLAMA3_SCALING | {"rope_theta": 500.0}

    change_config(tmp_path, rename)
    np.testing.assert_allclose(
        logits_of(MlxModel.load(tmp_path, "tiny")),
        logits_of(PortableModel.load(tmp_path, "tiny")),
        atol=1e-3,
    )


def test_prefill_in_pieces_fills_the_same_slots(
    model: MlxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx, "PREFILL_TOKENS", 7)
    cache = model.new_cache()
    model.prefill(SENTENCE[:60], cache)
    assert cache.length == 60
    np.testing.assert_allclose(
        model.forward(SENTENCE[60:], cache), logits_of(model)[60:], atol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=8))
def test_a_rolled_back_cache_is_as_good_as_a_fresh_one(
    model: MlxModel, steps: list[tuple[int, int]]
) -> None:
    cache = model.new_cache()
    sequence: list[int] = []
    for number, (num_fed, num_dropped) in enumerate(steps):
        fed = [(31 * number + 7 * index) % 300 for index in range(num_fed)]
        logits = np.array(model.forward(fed, cache))
        sequence += fed
        np.testing.assert_allclose(logits, logits_of(model, sequence)[-num_fed:], atol=1e-4)
        sequence = sequence[: max(0, len(sequence) - num_dropped)]
        cache.truncate(len(sequence))
        assert cache.length == len(sequence)


def test_gathering_the_accepted_part_of_a_chain_drops_the_rest(model: MlxModel) -> None:
    cache = model.new_cache()
    model.forward(SENTENCE[:10], cache)
    cache.gather(4, [4, 5, 6])
    assert cache.length == 7
    np.testing.assert_allclose(
        model.forward(SENTENCE[7:9], cache), logits_of(model)[7:9], atol=1e-4
    )


def test_a_tree_is_scored_as_its_paths_are(model: MlxModel) -> None:
    tree = Draft((5, 9, 7, 7, 11), (-1, 0, 0, -1, 2), (None,) * 5)
    context = SENTENCE[:12]
    rows = CachedContext(model).score(context, tree)
    for path in ([0, 1], [0, 2, 4], [3]):
        expected = logits_of(model, [*context, *(tree.token_ids[node] for node in path)])
        np.testing.assert_allclose(
            rows[[0, *(node + 1 for node in path)]], expected[len(context) - 1 :], atol=1e-4
        )


def test_a_growing_draft_is_fed_once(model: MlxModel) -> None:
    cached = CachedContext(model)
    for num_drafted in (0, 2, 3, 20):
        rows = cached.score(SENTENCE[:12], Draft.chain(SENTENCE[12 : 12 + num_drafted]))
        assert cached.cache.length == 12 + num_drafted
        expected = logits_of(model)[11 : 12 + num_drafted]
        np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_greedy_text_is_the_same_with_and_without_a_draft(model: MlxModel) -> None:
    def rounds_of(settings: RoundSettings) -> list[RoundResult]:
        events = generate(SENTENCE[:20], LocalTarget(model), settings, max_tokens=40)
        return [event for event in events if isinstance(event, RoundResult)]

    sampler = Sampler(temperature=0)
    plain = rounds_of(RoundSettings(NoDrafter(), 0, sampler))
    skipping = ModelDrafter(model.without_middle_layers())
    drafted = rounds_of(RoundSettings(skipping, 4, sampler))
    assert [t for r in drafted for t in r.emitted] == [t for r in plain for t in r.emitted]
    assert len(drafted) < len(plain) == 40


def test_two_runs_at_once_get_what_each_gets_alone(folder: Path) -> None:
    with ThreadPoolExecutor(1) as loader:  # gone before the runs begin
        shared = loader.submit(MlxModel.load, folder, "tiny").result()

    def run(seed: int) -> Logits:
        token_ids = np.random.default_rng(seed).integers(3, 300, 60).tolist()
        cache = shared.new_cache()
        shared.prefill(token_ids[:30], cache)
        return np.concatenate([shared.forward([token], cache) for token in token_ids[30:]])

    alone = [run(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for together, expected in zip(threads.map(run, range(3)), alone, strict=True):
            np.testing.assert_array_equal(together, expected)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_a_reduced_head_scores_its_tokens_only(tmp_path: Path, tie: bool) -> None:
    write_tiny_llama(tmp_path, tie=tie)
    whole = logits_of(MlxModel.load(tmp_path, "tiny"))
    np.save(tmp_path / "draft_token_ids.npy", HEAD_IDS)
    reduced = MlxModel.load(tmp_path, "tiny")
    logits = logits_of(reduced)
    assert logits.shape == whole.shape
    assert reduced.vocab_size == 300
    np.testing.assert_allclose(logits[:, HEAD_IDS], whole[:, HEAD_IDS], atol=1e-5)
    assert np.isneginf(np.delete(logits, HEAD_IDS, axis=1)).all()
    np.testing.assert_allclose(
        logits[:, HEAD_IDS],
        logits_of(PortableModel.load(tmp_path, "tiny"))[:, HEAD_IDS],
        atol=1e-3,
    )


def test_a_quantised_folder_is_its_own_weights_in_full(tmp_path: Path) -> None:
    quantised, restored = tmp_path / "8bit", tmp_path / "full"
    source = write_tiny_llama(tmp_path / "source")
    write_quantised(source, quantised, restored)
    logits = logits_of(MlxModel.load(quantised, "tiny"))
    np.testing.assert_allclose(logits, logits_of(PortableModel.load(restored, "tiny")), atol=1e-3)
    assert np.abs(logits - logits_of(PortableModel.load(source, "tiny"))).max() > 1e-3

    np.save(quantised / "draft_token_ids.npy", HEAD_IDS)
    reduced = logits_of(MlxModel.load(quantised, "tiny"))
    np.testing.assert_allclose(reduced[:, HEAD_IDS], logits[:, HEAD_IDS], atol=1e-5)
    assert np.isneginf(np.delete(reduced, HEAD_IDS, axis=1)).all()


@pytest.mark.parametrize("model_type", ["qwen3", "olmo2", "gemma2"])
def test_other_architectures_run_and_roll_back(tmp_path: Path, model_type: str) -> None:
    write_network(tmp_path, SMALL_CONFIG | {"model_type": model_type, "sliding_window": 4096})
    model = MlxModel.load(tmp_path, model_type)
    cache = model.new_cache()
    model.forward(SENTENCE[:20], cache)
    cache.truncate(11)
    expected = logits_of(model, SENTENCE[:14])
    assert expected.dtype == np.float32
    np.testing.assert_allclose(model.forward(SENTENCE[11:14], cache), expected[11:], atol=1e-4)
    assert logits_of(model.without_middle_layers()).shape == (90, 300)


RECURRENT = {
    "model_type": "mamba",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "state_size": 4,
    "num_hidden_layers": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 2,
    "max_position_embeddings": 512,
}
SLIDING = SMALL_CONFIG | {
    "model_type": "llama",
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "sliding_window": 64,
}


@pytest.mark.parametrize("config", [RECURRENT, SLIDING], ids=["recurrent", "sliding window"])
def test_a_cache_that_forgets_is_refused_at_load(tmp_path: Path, config: dict[str, Any]) -> None:
    write_network(tmp_path, config)
    with pytest.raises(ModelError, match="cannot take rejected tokens back"):
        MlxModel.load(tmp_path, "forgetful")


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    change_config(tmp_path, lambda config: config.update(model_type="perceptron"))
    with pytest.raises(ModelError, match="knows no architecture 'perceptron'"):
        MlxModel.load(tmp_path, "tiny")


def test_a_damaged_folder_is_refused_with_its_path(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=f"cannot open {tmp_path}"):
        MlxModel.load(tmp_path, "tiny")


def test_a_config_without_a_context_length_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path, SMALL_CONFIG | {"model_type": "qwen3"})
    change_config(tmp_path, lambda config: config.update(max_position_embeddings=None))
    with pytest.raises(ModelError, match="add max_position_embeddings"):
        MlxModel.load(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "mlx backend gates with SiLU only"),
        ({"partial_rotary_factor": 0.5}, "mlx backend rotates the whole of each head"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": 2}},
            "attention_factor",
        ),
    ],
)
def test_what_mlx_lm_would_pass_over_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_tiny_llama(tmp_path)
    change_config(tmp_path, lambda config: config.update(changes))
    with pytest.raises(ModelError, match=message):
        MlxModel.load(tmp_path, "tiny")


def test_files_that_mlx_lm_would_read_beside_the_model_are_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model-00009.safetensors").write_bytes(
        (tmp_path / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match=r"holds model-00009\.safetensors beside"):
        MlxModel.load(tmp_path, "tiny")


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": None, "rope_theta": None},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4}},
        {"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 1.0}},
        {"rope_parameters": {"rope_type": "linear", "type": "yarn", "factor": 2}},
    ],
)
def test_a_llama_is_the_same_on_both_backends(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_tiny_llama(tmp_path, tie="tie_word_embeddings" not in changes)
    change_config(tmp_path, lambda config: config.update(changes))
    models: list[Any] = [PortableModel.load(tmp_path), MlxModel.load(tmp_path, "tiny")]
    ours, theirs = (model.forward([5, 17, 3, 99], model.new_cache()) for model in models)
    assert np.abs(ours - theirs).max() < 1e-3


def test_a_reduced_head_of_another_architecture_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path, SMALL_CONFIG | {"model_type": "qwen3"})
    np.save(tmp_path / "draft_token_ids.npy", HEAD_IDS)
    with pytest.raises(ModelError, match="Only a Llama can have a reduced head"):
        MlxModel.load(tmp_path, "tiny")


def test_where_mlx_is_missing_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "specdec.models.mlx_network", raising=False)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(ModelError, match="pip install mlx-lm"):
        MlxModel.load(tmp_path, "tiny")


def test_trees_and_inner_states_are_refused_in_words(model: MlxModel) -> None:
    cache = model.new_cache()
    with pytest.raises(ModelError, match="chains only"):
        model.forward([5, 6], cache, parents=[-1, -1])
    for asked in (Inside((0,)), Inside((), attention=True)):
        with pytest.raises(ModelError, match="choose the portable backend"):
            model.forward([5, 6], cache, inside=asked)
        with pytest.raises(ModelError, match="choose the portable backend"):
            model.prefill([5, 6], cache, inside=asked)
    assert model.cannot_give((), attention=False) is None
    assert cache.length == 0
    np.testing.assert_allclose(
        model.forward([5, 6], cache, parents=[-1, 0]), logits_of(model, [5, 6]), atol=1e-4
    )


@pytest.mark.weights
def test_smollm2_has_the_same_logits_on_both_backends() -> None:
    folder = hub.resolve("smollm2-135m")
    token_ids = np.random.default_rng(3).integers(20, 49_000, 48).tolist()
    mlx_model, portable = MlxModel.load(folder, "mlx"), PortableModel.load(folder, "portable")
    np.testing.assert_allclose(
        logits_of(mlx_model, token_ids), logits_of(portable, token_ids), atol=1e-3
    )
    np.testing.assert_allclose(
        logits_of(mlx_model.without_middle_layers(), token_ids),
        logits_of(portable.without_middle_layers(), token_ids),
        atol=1e-3,
    )
