"""Models on PyTorch: every architecture against transformers' own, Llamas against portable.

The references are the model's own rows for each path alone, transformers' `generate`, and
`PortableModel`, which was written from the equations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from specdec.acceptance import Draft
from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import ModelError
from specdec.models import backends, torch_devices, torch_size
from specdec.models.base import AFTER_NORM, Inside, LanguageModel, Logits
from specdec.models.context import CachedContext
from specdec.models.portable import PortableModel
from specdec.models.torch_model import TorchModel
from specdec.pair import load_model, make_drafter, make_pair
from specdec.records import RoundResult
from specdec.sampling import Sampler
from specdec.settings import RunConfig
from specdec.targets.local import LocalTarget
from tests.models.networks import KINDS, SMALL, WINDOW, change_config, write_network
from tests.models.tiny import write_tiny_llama

IDS = np.random.default_rng(7).integers(3, 300, 90).tolist()
HEAD_IDS = np.array([0, 2, 5, 77, 298], np.int32)
GREEDY = Sampler(temperature=0)
ATOL = 1e-4
BY_PATHS = {"bloom"}
"""The architectures that take no mask of a tree."""


@pytest.fixture(scope="module", autouse=True)
def quietly() -> Iterator[None]:
    """Run tiny models on one thread, and keep transformers' words about them out of the output."""
    threads, level = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(level)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder of each architecture, written when it is first asked for."""
    return cache(lambda kind: write_network(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(scope="module")
def models(folders: Any) -> Any:
    return cache(lambda kind: TorchModel.load(folders(kind), kind, "cpu"))


@pytest.fixture(scope="module")
def llama(models: Any) -> TorchModel:
    return models("llama")


def logits_of(model: LanguageModel, token_ids: Sequence[int] = IDS) -> Logits:
    """Feed a fresh cache at most 64 tokens at a time."""
    cache = model.new_cache()
    parts = [token_ids[start : start + 64] for start in range(0, len(token_ids), 64)]
    return np.concatenate([model.forward(part, cache) for part in parts])


def written(target: LocalTarget, settings: RoundSettings, prompt: list[int], count: int = 12):
    """Return the tokens of a run and its rounds."""
    events = generate(prompt, target, settings, max_tokens=count)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    return [token_id for r in rounds for token_id in r.emitted], rounds


# -- every architecture ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_rolled_back_cache_is_as_good_as_a_fresh_one(models: Any, kind: str) -> None:
    model = models(kind)
    cache, sequence = model.new_cache(), []
    for num_fed, num_dropped in ((12, 3), (1, 0), (9, 12), (20, 5), (2, 2), (5, 0)):
        fed = [(31 * len(sequence) + 7 * index + 3) % 300 for index in range(num_fed)]
        logits = model.forward(fed, cache)
        sequence += fed
        expected = logits_of(model, sequence)[-num_fed:]
        np.testing.assert_allclose(logits, expected, atol=ATOL)
        sequence = sequence[: len(sequence) - num_dropped]
        cache.truncate(len(sequence))
        assert cache.length == len(sequence)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_context", [3, 2 * WINDOW])
def test_a_tree_is_scored_as_its_paths_are(models: Any, kind: str, num_context: int) -> None:
    """Deeper than a sliding window, which a path must leave as if it were alone."""
    model = models(kind)
    assert model.supports_trees == (kind not in BY_PATHS)
    rng = np.random.default_rng(3)
    parents = [max(-1, node - int(rng.integers(1, 4))) for node in range(30)]
    tree = Draft(tuple(rng.integers(3, 300, 30).tolist()), tuple(parents), (None,) * 30)
    assert max(len(tree.path_to(leaf)) for leaf in tree.leaves) > WINDOW
    context = IDS[:num_context]
    cached = CachedContext(model)
    beginning = Draft(tree.token_ids[:11], tree.parents[:11], (None,) * 11)
    cached.score(context, beginning)  # grown: its nodes are in the cache already
    rows = cached.score(context, tree)
    for leaf in tree.leaves:
        path = [*context, *tree.tokens_to(leaf)]
        expected = logits_of(model, path)[num_context - 1 :]
        found = rows[[0, *(node + 1 for node in tree.path_to(leaf))]]
        np.testing.assert_allclose(found, expected, atol=ATOL)
    leaf = tree.leaves[-1]
    accepted = [*context, *tree.tokens_to(leaf), 5]
    np.testing.assert_allclose(
        cached.score(accepted), logits_of(model, accepted)[-1:], atol=ATOL
    )  # the path was kept, and nothing but the path


@pytest.fixture(scope="module")
def continuations(folders: Any) -> Any:
    """Return what transformers' own `generate` writes after the first tokens of `IDS`."""

    @cache
    def written_by_transformers(kind: str, num_prompt: int) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(folders(kind))
        model.generation_config.eos_token_id = None
        ids = torch.tensor([IDS[:num_prompt]])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        continuation: list[int] = output[0, num_prompt:].tolist()
        return continuation

    return written_by_transformers


DRAFTS = st.tuples(
    st.sampled_from(["none", "chain", "3-2-1", "auto"]), st.integers(1, 8), st.booleans()
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(draft=DRAFTS, num_prompt=st.sampled_from([2, 21]))
def test_greedy_text_is_that_of_transformers(
    models: Any,
    continuations: Any,
    kind: str,
    draft: tuple[str, int, bool],
    num_prompt: int,
) -> None:
    model, (shape, num_draft_tokens, one_row) = models(kind), draft
    skipping = model.without_middle_layers()
    drafter = {"none": NoDrafter(), "chain": ModelDrafter(skipping)}.get(shape)
    settings = RoundSettings(
        drafter or TreeDrafter(skipping, shape), 0 if shape == "none" else num_draft_tokens, GREEDY
    )
    target = LocalTarget(model, one_row=one_row)
    found, _ = written(target, settings, IDS[:num_prompt])
    assert found == continuations(kind, num_prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_skipped_and_states_seen_in_every_architecture(models: Any, kind: str) -> None:
    model = models(kind)
    skipping = model.without_middle_layers()
    plain = logits_of(model)
    assert np.abs(logits_of(skipping) - plain).max() > 1e-2
    np.testing.assert_array_equal(logits_of(model), plain)
    for view, num_layers in ((model, 4), (skipping, 3)):
        asked = Inside((0, num_layers - 1, AFTER_NORM), attention=True)
        assert view.cannot_give(asked.layers, asked.attention) is None
        cache = view.new_cache()
        view.prefill(IDS[:14], cache, inside=asked)
        logits = view.forward(IDS[14:20], cache, inside=asked)
        np.testing.assert_allclose(logits, logits_of(view, IDS[:20])[14:], atol=1e-3)
        assert asked.hidden.shape == (20, 3, 32)
        assert np.isfinite(asked.hidden).all()
        assert len(asked.attention_weights) == num_layers
        for weights in asked.attention_weights:
            assert weights.shape == (4, 20, 20)
            np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-4)
            assert not np.triu(weights, 1).any()
        assert view.cannot_give((num_layers,), False) is not None


def test_a_reduced_head_keeps_what_the_model_does_after_it(folders: Any, tmp_path: Path) -> None:
    """Gemma 2 caps its logits, Cohere scales them: both after the head."""
    for kind in ("gemma2", "cohere", "gpt2"):
        folder = tmp_path / kind
        write_network(folder, kind)
        whole = logits_of(TorchModel.load(folder, kind, "cpu"))
        np.save(folder / "draft_token_ids.npy", HEAD_IDS)
        reduced = logits_of(TorchModel.load(folder, kind, "cpu"))
        np.testing.assert_allclose(reduced[:, HEAD_IDS], whole[:, HEAD_IDS], atol=1e-5)
        assert np.isneginf(np.delete(reduced, HEAD_IDS, axis=1)).all()


# -- Llamas, against the portable backend ----------------------------------------------------------

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie": False}, {"rope_scaling": LLAMA3_SCALING}, {"layers": 5, "kv_heads": 1}],
    ids=["tied", "untied", "llama3 scaling", "five layers"],
)
def test_llamas_are_those_of_the_portable_backend(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_tiny_llama(tmp_path, **changes)
    ours, portable = TorchModel.load(tmp_path, "tiny", "cpu"), PortableModel.load(tmp_path, "tiny")
    assert ours.vocab_size == portable.vocab_size
    assert ours.context_length == portable.context_length == 2048
    for one, other in (
        (ours, portable),
        (ours.without_middle_layers(), portable.without_middle_layers()),
    ):
        np.testing.assert_allclose(logits_of(one), logits_of(other), atol=1e-3)
        inside = [Inside((0, 1, AFTER_NORM), attention=True) for _ in range(2)]
        parents = [-1, 0, 0, 1, -1]
        for model, asked in zip((one, other), inside, strict=True):
            cache = model.new_cache()
            model.prefill(IDS[:30], cache, inside=asked)
            model.forward(IDS[30:35], cache, parents=parents, inside=asked)
        np.testing.assert_allclose(inside[0].hidden, inside[1].hidden, atol=1e-3)
        for mine, theirs in zip(*(i.attention_weights for i in inside), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-3)
    np.save(tmp_path / "draft_token_ids.npy", HEAD_IDS)
    reduced = [m.load(tmp_path, "tiny") for m in (TorchModel, PortableModel)]
    np.testing.assert_allclose(*map(logits_of, reduced), atol=1e-3)


@pytest.mark.weights
def test_smollm2_and_its_drafts_write_the_same_on_torch() -> None:
    texts, accepted = [], {}
    for place in ("portable", "torch:cpu"):
        loaded = load_model("smollm2-135m", place)
        assert loaded.model.supports_trees
        prompt = loaded.tokenizer.encode("The sky is blue because")
        for draft in ("none", "smollm2-draft", "smollm2-eagle"):
            drafter = make_drafter(draft, loaded, place)
            settings = RoundSettings(drafter, 4 * (draft != "none"), GREEDY)
            text, rounds = written(LocalTarget(loaded.model), settings, prompt, 24)
            texts.append(text)
            accepted[draft, place] = sum(one.num_accepted for one in rounds)
    assert all(text == texts[0] for text in texts)
    for draft in ("smollm2-draft", "smollm2-eagle"):
        assert accepted[draft, "portable"] == accepted[draft, "torch:cpu"] > 0


# -- exactness -------------------------------------------------------------------------------------


def test_one_row_at_a_time_is_plain_decoding_to_the_last_bit(models: Any) -> None:
    for kind in ("llama", "gemma3_text", "gpt2", "bloom"):
        model = models(kind)
        cached, alone = CachedContext(model, one_row=True), model.new_cache()
        context = IDS[:20]
        cached.prefill(context)
        model.prefill(context[:-1], alone)
        for tree in (
            Draft.chain(IDS[20:28]),
            Draft((5, 9, 7, 7, 11), (-1, 0, 0, -1, 2), (None,) * 5),
        ):
            rows = cached.score(context, tree)
            for leaf in tree.leaves:
                ids, nodes = [context[-1], *tree.tokens_to(leaf)], tree.path_to(leaf)
                expected = np.concatenate([model.forward([token_id], alone) for token_id in ids])
                alone.truncate(len(context) - 1)
                np.testing.assert_array_equal(rows[[0, *(n + 1 for n in nodes)]], expected)


def test_the_run_says_what_it_is_exact_for(folders: Any) -> None:
    config = RunConfig(target=str(folders("qwen2")), draft="layer-skip", backend="torch")
    said = [
        str(make_pair(one).target.exactness_for(GREEDY))
        for one in (config, RunConfig(**{**_values(config), "one_row": True}))
    ]
    assert said[0].startswith("exact up to rounding of this backend")
    assert said[1] == "exact: verified one row at a time"


def _values(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


# -- which backend, and where ----------------------------------------------------------------------


def test_auto_takes_torch_for_what_portable_does_not_open(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_devices, "has_cuda", lambda: False)
    monkeypatch.setattr(backends, "is_apple_silicon", lambda: False)
    assert backends.choose("auto", write_tiny_llama(tmp_path)).backend == "portable"
    chosen = backends.choose("auto", folders("gpt2"))
    assert (chosen.backend, chosen.device) == ("torch", "cpu")
    loaded = load_model(str(folders("gpt2")), "auto")
    assert loaded.runs_on == (
        "torch (cpu, float32), chosen because portable opens plain Llamas only"
    )
    assert "path by path" in load_model(str(folders("bloom")), "torch").runs_on


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_devices, "has_cuda", lambda: True)
    assert backends.choose("auto").backend == "torch"
    assert "NVIDIA" in backends.choose("auto").why
    assert backends.choose("auto:cpu").backend == "portable"
    assert backends.choose("auto:cuda:1").device == "cuda:1"
    assert backends.choose("portable").backend == "portable"
    monkeypatch.setattr(torch_devices, "cuda_devices", lambda: ("One", "Two"))
    assert torch_devices.find_device("auto") == "cuda:0"
    assert torch_devices.find_device("cuda:1") == "cuda:1"
    assert torch_devices.device_title("cuda:1") == "cuda:1 (Two)"
    with pytest.raises(ModelError, match=r"no cuda:2 here, but cuda:0, cuda:1, cpu"):
        torch_devices.find_device("cuda:2")


# -- refusals --------------------------------------------------------------------------------------

RECURRENT = {"mamba": {"state_size": 4}, "falcon_mamba": {"state_size": 4}}
HYBRID = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "qwen3_next": {},
}


@pytest.mark.parametrize("kind", [*RECURRENT, *HYBRID])
def test_a_state_that_cannot_be_rolled_back_is_refused_before_the_weights_are_read(
    tmp_path: Path, kind: str
) -> None:
    config = {"model_type": kind} | SMALL | (RECURRENT | HYBRID)[kind]
    write_tiny_llama(tmp_path)
    change_config(tmp_path, architectures=None, **config)
    with pytest.raises(ModelError, match="attention in every layer") as refused:
        TorchModel.load(tmp_path, "forgetful", "cpu")
    assert str(refused.value).count(". ") == 0


def _unknown(folder: Path) -> None:
    change_config(folder, model_type="perceptron")


def _own_code(folder: Path) -> None:
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change_config(folder, model_type="own", auto_map=code)
    (folder / "own.py").write_text("raise SystemExit('this must never run')")


def _pickle(folder: Path) -> None:
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights")


def _too_deep(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)


def _too_wide(folder: Path) -> None:
    change_config(folder, intermediate_size=128)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_unknown, "cannot read what .* describes"),
        (_own_code, "brings its own Python code, which is never run here"),
        (_pickle, "no .safetensors file"),
        (_cut, "cannot open|is damaged"),
        (_no_header, "is damaged"),
        (_too_deep, r"lacks \d+ tensors that fit, model.layers.3"),
        (_too_wide, "lacks|cannot open"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_a_sentence(
    tmp_path: Path, damage: Any, message: str
) -> None:
    write_tiny_llama(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        TorchModel.load(tmp_path, "tiny", "cpu")


def test_a_kernel_that_a_configuration_names_is_not_fetched(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    change_config(tmp_path, _attn_implementation="somebody/kernel", attn_implementation="a/b")
    model = TorchModel.load(tmp_path, "tiny", "cpu")
    assert logits_of(model).shape == (90, 300)


def test_a_model_too_large_for_the_memory_is_refused_with_the_numbers(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders("llama")
    size = torch_size.measure(folder)
    assert size.stored == size.in_float32 == size.on("cpu")
    assert size.stored == sum(
        p.numel() * 4 for p in AutoModelForCausalLM.from_pretrained(folder).parameters()
    )
    monkeypatch.setattr(torch_devices, "free_ram", lambda: 150_000_000)
    with pytest.raises(ModelError, match=r"needs 0\.2 GB of memory on the CPU, and 0\.1 GB"):
        TorchModel.load(folder, "llama", "cpu")


def test_out_of_memory_is_a_sentence_and_the_cache_stays_right(
    llama: TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = CachedContext(llama)
    before = cached.score(IDS[:10], Draft.chain(IDS[10:14]))
    call, calls = type(llama._network)._call, []

    def break_down(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(call(self, *arguments, **options))
        raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(type(llama._network), "_call", break_down)
    for fails in (lambda: cached.score(IDS[:20]), lambda: cached.prefill(IDS[:40])):
        with pytest.raises(ModelError, match=r"ran out of memory on the CPU: its weights take"):
            fails()
    assert len(calls) == 2
    monkeypatch.undo()
    np.testing.assert_allclose(cached.score(IDS[:10], Draft.chain(IDS[10:14])), before, atol=ATOL)


def test_where_torch_is_missing_the_error_says_how_to_install_it(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="pip install torch"):
        TorchModel.load(folders("llama"), "tiny", "cpu")


def test_loading_reports_how_far_it_is_and_can_be_stopped(folders: Any) -> None:
    told: list[tuple[int, int | None, str]] = []
    TorchModel.load(folders("llama"), "llama", "cpu", lambda *said: told.append(said))
    reading = [(done, total) for done, total, what in told if what == "Reading llama"]
    assert reading == sorted(reading)
    assert reading[-1][0] == reading[-1][1] == torch_size.measure(folders("llama")).in_float32
    assert told[-1][2] == "Trying llama out on the CPU"

    class StopError(Exception):
        pass

    def stop(done: int, total: int | None, what: str) -> None:
        if done:
            raise StopError

    with pytest.raises(StopError):
        TorchModel.load(folders("llama"), "llama", "cpu", stop)


def test_more_than_the_context_is_refused(models: Any) -> None:
    model = models("gpt2")
    cache = model.new_cache()
    with pytest.raises(ModelError, match="reads 256 tokens at most and was given 257"):
        model.prefill([5] * 257, cache)
    model.prefill([5] * 255, cache)
    with pytest.raises(ModelError, match="was given 257"):
        model.forward([5, 6, 7], cache, parents=[-1, 0, 0])
    model.forward([6, 7], cache, parents=[-1, -1])  # two tokens on one position


def test_two_runs_at_once_get_what_each_gets_alone(llama: TorchModel) -> None:
    def run(seed: int) -> Logits:
        torch.set_num_threads(1)  # it belongs to each thread, and rounding depends on it
        ids = np.random.default_rng(seed).integers(3, 300, 30).tolist()
        cache = llama.new_cache()
        llama.prefill(ids[:20], cache)
        asked = Inside((), attention=seed == 1)  # which switches how attention is computed
        return np.concatenate([llama.forward([i], cache, inside=asked) for i in ids[20:]])

    alone = [run(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for together, expected in zip(threads.map(run, range(3)), alone, strict=True):
            np.testing.assert_array_equal(together, expected)


def test_half_precision_is_what_the_weights_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU would run, on the CPU: the weights' own type, and the tree's mask in it."""
    model = AutoModelForCausalLM.from_pretrained(write_tiny_llama(tmp_path))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert torch_size.measure(tmp_path).in_float32 == 2 * torch_size.measure(tmp_path).stored
    ours = TorchModel.load(tmp_path, "tiny", "cpu")
    assert ours.backend == "torch (cpu, float32)"
    network = ours._network
    network.module.to(torch.bfloat16)
    assert ours.backend == "torch (cpu, bfloat16)"
    cache = ours.new_cache()
    ours.prefill(IDS[:9], cache)
    rows = ours.forward(IDS[9:12], cache, parents=[-1, -1, 0])
    for path, row in (([9], 0), ([10], 1), ([9, 11], 2)):
        expected = logits_of(ours, [*IDS[:9], *(IDS[i] for i in path)])[-1]
        assert np.abs(rows[row] - expected).max() < 0.05 * np.abs(expected).max()
