"""Every folder of the table opens and says what transformers says, or says in one sentence why."""

from __future__ import annotations

import copy
import importlib.util
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec.errors import ModelError
from specdec.models.fetch.digest import digest_weights
from specdec.models.portable import PortableModel
from tests.models.folders import OBEYED, REFUSED, Folder, rope, shard
from tests.models.tiny import write_tiny_llama

PROMPT = [1, 5, 17, 3, 99, 42, 250]
NUM_TOKENS = 8
reference = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason="compares with transformers, which is not installed (pip install torch transformers)",
)


def greedy(folder: Path) -> list[int]:
    model = PortableModel.load(folder)
    cache = model.new_cache()
    ids = [int(model.forward(PROMPT, cache)[-1].argmax())]
    while len(ids) < NUM_TOKENS:
        ids.append(int(model.forward(ids[-1:], cache)[-1].argmax()))
    return ids


def greedy_of_transformers(folder: Path) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


@reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", OBEYED, ids=lambda row: row.words)
def test_a_folder_that_opens_says_what_transformers_says(row: Folder, tmp_path: Path) -> None:
    ours = row.write(tmp_path / "ours")
    theirs = replace(row, changes={**row.changes, **row.means}).write(tmp_path / "theirs")
    assert greedy(ours) == greedy_of_transformers(theirs)


def test_copies_inside_the_files_of_an_index_do_not_count(tmp_path: Path) -> None:
    """transformers reads them, the last one winning; the index says which tensor is where."""
    folder = write_tiny_llama(tmp_path)
    expected = greedy(folder)
    shard(folder, inside=True)
    assert greedy(folder) == expected


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.words)
def test_a_folder_that_does_not_open_says_why(row: Folder, tmp_path: Path) -> None:
    folder = row.write(tmp_path / "model")
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=row.refusal or "") as refusal:
            PortableModel.load(folder)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value).strip()


def test_the_rows_of_the_table_do_not_all_say_the_same(tmp_path: Path) -> None:
    """A value that were passed over would leave the plain model's tokens."""
    said = {row.words: tuple(greedy(row.write(tmp_path / str(i)))) for i, row in enumerate(OBEYED)}
    plain = said["a plain Llama"]
    for words in ("linear scaling", "Llama 3's scaling", "YaRN", "a whole number for rms_norm_eps"):
        assert said[words] != plain, words
    assert said["an index, with stale files and overlays beside"] == plain
    assert said["YaRN with an attention_factor"] != said["YaRN"]


def test_a_digest_follows_the_files_of_the_index(tmp_path: Path) -> None:
    folders = [write_tiny_llama(tmp_path / str(i)) for i in range(3)]
    for folder in folders:
        shard(folder)
    (folders[0] / "zz-overlay.safetensors").unlink()
    part = folders[2] / "model-00001-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    first, second, third = map(digest_weights, folders)
    assert first == second != third


def test_models_with_one_embedding_hold_it_once(tmp_path: Path) -> None:
    one, same, other = (
        PortableModel.load(write_tiny_llama(tmp_path / str(i), seed=seed))
        for i, seed in enumerate((0, 0, 1))
    )
    assert one.llama.weights.embedding is same.llama.weights.embedding
    assert one.llama.weights.embedding is one.llama.weights.head
    assert one.llama.weights.embedding is not other.llama.weights.embedding
    assert one.llama.weights.qkv is not same.llama.weights.qkv


def test_rotations_grow_with_use_and_are_the_same_for_every_growth(tmp_path: Path) -> None:
    folder = Folder("", {"max_position_embeddings": 10**6}).write(tmp_path)
    model, other = PortableModel.load(folder), PortableModel.load(folder)
    assert len(model.llama.rotations.cosines) < 10_000
    other.llama.rotations.reach(50_000)
    for length in range(1, 50_000, 7001):
        model.llama.rotations.reach(length)
    for name in ("cosines", "sines"):
        mine, others = (getattr(m.llama.rotations, name)[:49_000] for m in (model, other))
        assert len(mine) == 49_000
        assert np.array_equal(mine, others)


ODD = st.sampled_from(
    (
        *(None, True, False, 0, 1, -1, 2, 3, 0.5, 10**9, 2**63, 10**400, 1e308, float("nan")),
        *(float("inf"), "", "silu", "gelu", [], [1], {}, {"a": 1}, "é" * 1000),
    )
)
BASES = [{}, rope(rope_type="linear", factor=2.0), rope(type="yarn", factor=4.0)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("fuzz"), layers=1)


def mutate(data: st.DataObject, config: dict[str, Any]) -> dict[str, Any]:
    """Drop, null, retype or enlarge one value, or give one of a field that is not there."""
    config = copy.deepcopy(config)
    place = config
    names = [*config, "sliding_window", "head_dim", "logit_scale", "layer_types", "rope_parameters"]
    name = data.draw(st.sampled_from(names))
    if isinstance(config.get(name), dict) and data.draw(st.booleans()):
        place = config[name]
        name = data.draw(st.sampled_from([*place, "attention_factor", "mscale", "rope_theta"]))
    if data.draw(st.booleans()) and name in place:
        del place[name]
    else:
        place[name] = data.draw(ODD)
    return config


def check_mutation(data: st.DataObject, base: Path) -> None:
    path = base / "config.json"
    before = path.read_text()
    config = json.loads(before) | data.draw(st.sampled_from(BASES))
    try:
        path.write_text(json.dumps(mutate(data, config)))
        try:
            ours = greedy(base)
        except ModelError:
            return
        try:
            theirs = greedy_of_transformers(base)
        except Exception:  # it refuses more than we do, each in its own way
            return
        assert ours == theirs
    finally:
        path.write_text(before)


fuzz = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@reference
@pytest.mark.filterwarnings("ignore")
@settings(fuzz, max_examples=300)
@given(data=st.data())
def test_no_value_of_config_json_ends_in_a_traceback_or_in_another_model(
    base: Path, data: st.DataObject
) -> None:
    check_mutation(data, base)


@reference
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@settings(fuzz, max_examples=10_000)
@given(data=st.data())
def test_no_value_of_config_json_does_so_in_a_long_night(base: Path, data: st.DataObject) -> None:
    check_mutation(data, base)
