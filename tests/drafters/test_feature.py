"""A feature head drafts: it computes what its format says, and the output stays the target's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from specdec.acceptance import Draft
from specdec.drafters.base import DrafterRun
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.feature import FeatureContext, FeatureDrafter, make_feature_drafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import ModelError, SettingsError
from specdec.models import portable
from specdec.models.base import Inside
from specdec.models.eagle3 import HeadWeights, is_feature_head
from specdec.models.feature_head import FeatureHead
from specdec.models.portable import PortableModel
from specdec.pair import LoadedModel, load_model, make_drafter
from specdec.policies.base import Budget
from specdec.records import RoundResult, TokenStatus
from specdec.sampling import Sampler
from specdec.targets.local import LocalTarget
from tests.drafters.tables import proposals
from tests.models.tiny import write_tiny_llama
from tests.models.tiny_head import reference_logits, write_tiny_head
from tests.test_acceptance import VOCAB, conditional, sequence_law
from tests.toy import ToyModel

PROMPT = [5, 17, 3, 99, 42]
AUX = (1, 2, 3)


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("target"), layers=3, seed=5)


@pytest.fixture(scope="module")
def target(target_folder: Path) -> PortableModel:
    return PortableModel.load(target_folder)


@pytest.fixture
def head(tmp_path: Path, target: PortableModel) -> FeatureHead:
    write_tiny_head(tmp_path / "head")
    return put_on(tmp_path / "head", target)


def put_on(folder: Path, target: PortableModel) -> FeatureHead:
    return FeatureHead(folder.name, HeadWeights.load(folder), target.llama.weights.embedding)


def states_of(target: PortableModel, token_ids: list[int]) -> np.ndarray:
    inside = Inside(tuple(layer - 1 for layer in AUX))
    target.forward(token_ids, target.new_cache(), inside=inside)
    return inside.hidden


def tokens(target: PortableModel, drafter, *, k: int = 4, temperature: float = 0.0) -> list[int]:
    settings = RoundSettings(drafter, k, Sampler(temperature))
    events = generate(PROMPT, LocalTarget(target), settings, max_tokens=40, seed=3)
    return [t for e in events if isinstance(e, RoundResult) for t in e.emitted]


FORMS = {
    "as shipped": {"norm_before_residual": False},
    "normed residual": {"norm_before_residual": True},
    "not said": {},
    "normed states": {"norm_before_fc": True},
    "two layers": {"layers": 2},
    "old": {"old": True},
    "shuffled rows": {"token_ids": np.random.default_rng(0).permutation(300)[:90]},
    "whole vocabulary": {"token_ids": np.arange(300)},
    "one key head": {"kv_heads": 1},
}


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "NumPy"])
@pytest.mark.parametrize("form", FORMS)
def test_a_head_computes_what_its_format_says(
    tmp_path: Path, target: PortableModel, form: str, kernels: bool, monkeypatch
) -> None:
    """Two accepted tokens after the prompt, then three on the head's own features."""
    if not kernels:
        monkeypatch.setattr(portable, "numba_kernels", lambda: None)
    options = FORMS[form]
    tensors = write_tiny_head(tmp_path / "head", **options)
    head = put_on(tmp_path / "head", target)
    rules = {
        "normed_residual": options.get("norm_before_residual", not options.get("old", False)),
        "normed_states": options.get("norm_before_fc", False),
    }
    embedding = target.llama.weights.embedding
    ids = np.flatnonzero(tensors["t2d"])
    if "token_ids" in options:
        ids = options["token_ids"]
    context = FeatureContext(head)
    for num_read in (4, 7):
        text = [*PROMPT, 200, 31, 8][: num_read + 1]
        states = states_of(target, text[:-1])
        own = context.read(text, states)
        for drafted in ([], [12], [12, 77], [12, 77, 4]):
            logits = context.score([*own, *drafted])[-1]
            expected = reference_logits(tensors, embedding, [*text, *drafted], states, **rules)
            np.testing.assert_allclose(logits[ids], expected, atol=2e-4, rtol=1e-4)
            others = np.setdiff1d(np.arange(300), ids)
            assert np.isneginf(logits[others]).all()


TREE = Draft((12, 40, 77, 4, 9, 60), (-1, -1, 0, 0, 1, 2), (None,) * 6)


@pytest.mark.parametrize("order", ["at once", "level by level"])
def test_a_node_of_a_tree_has_the_logits_of_its_path(
    head: FeatureHead, target: PortableModel, order: str
) -> None:
    states = states_of(target, PROMPT[:-1])
    context = FeatureContext(head)
    own = context.read(PROMPT, states)
    if order == "level by level":
        for count in (2, 5):
            context.score(own, Draft(*(part[:count] for part in (*_parts(TREE),))))
    rows = context.score(own, TREE)
    for node in range(len(TREE)):
        alone = FeatureContext(head)
        path = [*alone.read(PROMPT, states), *TREE.tokens_to(node)]
        for end in range(len(PROMPT), len(path)):
            alone.score(path[:end])
        assert np.array_equal(rows[node + 1], alone.score(path)[0])


def _parts(draft: Draft):
    return draft.token_ids, draft.parents, draft.distributions


def test_what_a_round_left_behind_does_not_show_in_the_next(
    head: FeatureHead, target: PortableModel
) -> None:
    """Whatever was drafted and accepted before: the next draft is that of a fresh start."""
    text = [*PROMPT, 12, 77, 31, 8, 150, 2, 66]
    used = FeatureContext(head)
    for num_read in (4, 5, 7, 10):
        context, states = text[: num_read + 1], states_of(target, text[:num_read])
        fresh = FeatureContext(head)
        rows = []
        for one in (used, fresh):
            own = one.read(context, states)
            rows.append([one.score(own)[0], one.score([*own, 12])[0], one.score([*own, 12, 77])[0]])
        assert np.array_equal(rows[0], rows[1])
        used.score([*context], TREE)


@pytest.mark.parametrize("shape", [None, "auto", "2-2-1", "3"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_temperature_zero_equals_plain_decoding(
    head: FeatureHead, target: PortableModel, shape: str | None, k: int
) -> None:
    drafter = make_feature_drafter(head, 3, shape)
    assert tokens(target, drafter, k=k) == tokens(target, NoDrafter())


def test_a_prompt_of_one_token_has_nothing_to_draft_from(
    head: FeatureHead, target: PortableModel
) -> None:
    settings = RoundSettings(make_feature_drafter(head, 3), 3, Sampler(0.0))
    rounds = [
        event
        for event in generate([7], LocalTarget(target), settings, max_tokens=9)
        if isinstance(event, RoundResult)
    ]
    assert [len(one.candidates) for one in rounds[:2]] == [0, 3]


def test_it_drafts_in_a_mixture(head: FeatureHead, target: PortableModel) -> None:
    mixture = EnsembleDrafter([make_feature_drafter(head, 3), NgramDrafter()])
    assert mixture.wants.hidden_layers == (0, 1, 2)
    assert tokens(target, mixture) == tokens(target, NoDrafter())


def test_it_may_be_chosen_in_mid_run_and_come_back(
    head: FeatureHead, target: PortableModel
) -> None:
    chain, plain = make_feature_drafter(head, 3), NoDrafter()
    left = [plain, plain, chain, chain, plain, chain, plain, chain]
    events = generate(
        PROMPT,
        LocalTarget(target),
        lambda: RoundSettings(left.pop(0) if len(left) > 1 else chain, 3, Sampler(0.0)),
        max_tokens=30,
    )
    written = [t for e in events if isinstance(e, RoundResult) for t in e.emitted]
    assert written == tokens(target, NoDrafter())[:30]


def test_every_token_is_drawn_from_the_law_that_it_is_tested_against(
    tmp_path: Path, target: PortableModel
) -> None:
    """The distributions in a draft are those of the format's formulas, drawn tokens included."""
    tensors = write_tiny_head(tmp_path / "head", norm_before_residual=False)
    head = put_on(tmp_path / "head", target)
    states = states_of(target, PROMPT[:-1])
    run = make_feature_drafter(head, 3).start(PROMPT)
    embedding, ids = target.llama.weights.embedding, np.arange(0, 300, 2)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        draft = run.propose(PROMPT, Budget.chain(4), Sampler(0.7), rng, states)
        for node, law in enumerate(draft.distributions):
            text = [*PROMPT, *draft.token_ids[:node]]
            logits = reference_logits(tensors, embedding, text, states, normed_residual=False)
            expected = np.exp((logits - logits.max()) / 0.7)
            assert law is not None
            np.testing.assert_allclose(law.probs[ids], expected / expected.sum(), atol=1e-5)


class OnStates(DrafterRun):
    """A head's run behind two tokens of which the target's states are known."""

    def __init__(self, run: DrafterRun, states: np.ndarray) -> None:
        self._run, self._states = run, states

    def propose(self, context, budget, sampler, rng, hidden=None):
        return self._run.propose([1, 2, *context], budget, sampler, rng, self._states)


@pytest.mark.parametrize("shape", [None, "2-1", "2-2", "auto"])
@pytest.mark.parametrize("seed", range(3))
def test_its_drafts_keep_the_law_of_the_target(
    tmp_path: Path, shape: str | None, seed: int
) -> None:
    """By enumeration of every draft and every outcome, over a vocabulary of three."""
    write_tiny_head(tmp_path / "head", vocab_size=VOCAB, token_ids=np.arange(VOCAB), seed=seed)
    rng = np.random.default_rng(seed)
    embedding = rng.standard_normal((VOCAB, 32)).astype(np.float32)
    states = rng.standard_normal((2, len(AUX), 32)).astype(np.float32)
    head = FeatureHead("head", HeadWeights.load(tmp_path / "head"), embedding)
    drafter = make_feature_drafter(head, 3, shape)
    law = sequence_law(
        proposals(lambda: OnStates(drafter.start([]), states), Budget(2, 6)), conditional(seed), 3
    )
    target = conditional(seed)
    for text in itertools.product(range(VOCAB), repeat=3):
        expected = np.prod([target(text[:i])[text[i]] for i in range(3)])
        assert law[text] == pytest.approx(expected, abs=1e-6)  # of float32 laws, which sum to 1 ± ε


def test_opened_by_its_folder_it_shares_the_targets_embedding(
    tmp_path: Path, target_folder: Path
) -> None:
    write_tiny_head(tmp_path / "head")
    loaded = load_model(str(target_folder), "portable")
    drafter = make_drafter(str(tmp_path / "head"), loaded, "portable")
    assert isinstance(drafter, FeatureDrafter)
    assert drafter.name == str(tmp_path / "head")
    assert drafter.head.llama.weights.embedding is loaded.model.llama.weights.embedding


def test_without_layers_named_they_are_those_of_vllm(tmp_path: Path, target: PortableModel) -> None:
    write_tiny_head(tmp_path / "head", aux=None, old=True)
    drafter = make_feature_drafter(put_on(tmp_path / "head", target), 30)
    assert drafter.wants.hidden_layers == (1, 14, 26)


def test_a_target_on_a_server_is_refused_in_a_sentence(tmp_path: Path, target_folder: Path) -> None:
    write_tiny_head(tmp_path / "head")
    remote = LoadedModel(None, None, remote=LocalTarget(ToyModel()))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="a server keeps these to itself"):
        make_drafter(str(tmp_path / "head"), remote, "portable")


def test_a_head_is_no_target(tmp_path: Path) -> None:
    write_tiny_head(tmp_path / "head")
    with pytest.raises(SettingsError, match="head is a feature head: it drafts"):
        _ = load_model(str(tmp_path / "head"), "portable").target


def test_a_head_of_another_target_is_refused(tmp_path: Path, target_folder: Path) -> None:
    write_tiny_head(tmp_path / "wide", width=64)
    write_tiny_head(tmp_path / "deep", aux=(1, 2, 9))
    write_tiny_head(tmp_path / "words", vocab_size=400)
    loaded = load_model(str(target_folder), "portable")
    for name, words in (("wide", "width 64"), ("deep", "layers 0 to 2"), ("words", "399 tokens")):
        with pytest.raises((ModelError, SettingsError), match=words):
            make_drafter(str(tmp_path / name), loaded, "portable")


def without(name: str):
    return lambda tensors: {k: t for k, t in tensors.items() if k != name}


def changed(name: str, tensor: np.ndarray):
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layers.0.hidden_norm.weight"), "lacks layers.0.hidden_norm.weight"),
        (without("fc.weight"), "lacks fc.weight"),
        (without("lm_head.weight"), "lacks lm_head.weight"),
        (changed("fc.bias", np.zeros(32, np.float32)), "fc.bias, which is not known"),
        (changed("layers.0.self_attn.q_norm.weight", np.ones(8, np.float32)), "q_norm"),
        (changed("norm.weight", np.ones(31, np.float32)), "has shape"),
        (changed("d2t", np.zeros(7, np.int64)), "d2t .* has shape"),
        (changed("d2t", np.full(150, 299, np.int64)), "not different tokens below"),
        (changed("d2t", np.full(150, np.nan, np.float32)), "d2t .* no whole numbers"),
        (changed("norm.weight", np.ones(32, np.int8)), "stored as I8"),
        (changed("fc.weight", np.ones(32, np.float32)), "fc.weight .* has shape"),
        (changed("fc.weight", np.ones((), np.float32)), "fc.weight .* has shape"),
    ],
)
def test_a_damaged_head_is_refused_in_a_sentence(tmp_path: Path, change, words: str) -> None:
    tensors = write_tiny_head(tmp_path / "head")
    save_file(change(tensors), tmp_path / "head" / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        HeadWeights.load(tmp_path / "head")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc_norm": True}, "fc_norm = True"),
        ({"transformer_layer_config": None}, "transformer_layer_config"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}, "embedding"),
        ({"eagle_aux_hidden_state_layer_ids": ["1"]}, "no numbers of layers"),
        ({"draft_vocab_size": -3}, "draft_vocab_size as -3"),
        ({"norm_before_residual": "false"}, "norm_before_residual as 'false'"),
        ({"norm_before_fc": 1}, "norm_before_fc as 1"),
    ],
)
def test_a_configuration_that_means_something_else_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    write_tiny_head(tmp_path / "head")
    path = tmp_path / "head" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=words):
        HeadWeights.load(tmp_path / "head")


def test_a_head_that_claims_a_billion_layers_is_refused_at_once(tmp_path: Path) -> None:
    write_tiny_head(tmp_path / "head")
    path = tmp_path / "head" / "config.json"
    config = json.loads(path.read_text())
    config["transformer_layer_config"]["num_hidden_layers"] = 10**9
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks layers\.1\."):
        HeadWeights.load(tmp_path / "head")


@pytest.mark.parametrize("names", [5, {"a": 1}, [["a"], {}, 3], "LlamaForCausalLMEagle3", None])
def test_architectures_of_any_kind_make_no_head_of_a_model(tmp_path: Path, names: object) -> None:
    text = json.dumps({"architectures": names, "draft_vocab_size": 3})
    (tmp_path / "config.json").write_text(text)
    assert not is_feature_head(tmp_path)


def test_some_drafts_are_accepted_and_some_are_not(
    head: FeatureHead, target: PortableModel
) -> None:
    """So that the tests above walk both ways."""
    settings = RoundSettings(make_feature_drafter(head, 3), 3, Sampler(1.5))
    events = generate(PROMPT, LocalTarget(target), settings, max_tokens=60, seed=1)
    seen = {c.status for e in events if isinstance(e, RoundResult) for c in e.candidates}
    assert {TokenStatus.ACCEPTED, TokenStatus.REJECTED} <= seen
