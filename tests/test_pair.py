"""Names become a target, a drafter and a tokenizer, and the choices offered fit the target."""

from __future__ import annotations

import pytest

from specdec.drafters.branches import BranchesDrafter
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.errors import SettingsError, SpecdecError
from specdec.models.fetch import hub
from specdec.pair import (
    DRAFT_STRATEGIES,
    draft_choices,
    load_model,
    make_drafter,
    make_pair,
    target_choices,
)
from specdec.settings import TRAINED_DRAFTS, TRAINED_HEADS, RunConfig, default_draft
from specdec.targets.link import EmulatedLink
from tests.models.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("tiny")))


def config(tiny: str, **changes: object) -> RunConfig:
    return RunConfig(target=tiny, backend="portable", **changes)  # type: ignore[arg-type]


def test_every_strategy_can_be_built(tiny: str) -> None:
    loaded = load_model(tiny, "portable")
    for name in DRAFT_STRATEGIES:
        drafter = make_drafter(name, loaded, "portable", recall=lambda prompt: [])
        assert drafter.name == name


@pytest.mark.parametrize("draft", ["ngram-saved", "ngram-saved+suffix", "suffix|ngram-saved"])
def test_earlier_answers_are_read_where_there_are_any(tiny: str, draft: str) -> None:
    loaded = load_model(tiny, "portable")
    with pytest.raises(SettingsError, match="choose ngram"):
        make_drafter(draft, loaded, "portable")
    asked = []
    drafter = make_drafter(
        draft, loaded, "portable", recall=lambda prompt: asked.append(list(prompt)) or []
    )
    drafter.start([1, 2])
    assert asked == [[1, 2]]


def test_a_draft_model_shares_the_weights_that_were_loaded(tiny: str) -> None:
    loads = []

    def load(name: str, backend: str):
        loads.append(name)
        return load_model(name, backend)

    pair = make_pair(config(tiny, draft=tiny), load)
    assert isinstance(pair.drafter, ModelDrafter)
    assert loads == [tiny, tiny]
    assert set(pair.digests) == {tiny}
    assert all(len(digest) == 64 for digest in pair.digests.values())


def test_a_round_trip_puts_the_target_behind_an_emulated_link(tiny: str) -> None:
    assert isinstance(make_pair(config(tiny, draft="none", rtt_ms=5.0)).target, EmulatedLink)
    assert not make_pair(config(tiny, draft="none")).target.link_is_emulated


def test_an_empty_prompt_is_refused(tiny: str) -> None:
    with pytest.raises(SettingsError, match="prompt is empty"):
        make_pair(config(tiny, draft="none")).encode_prompt(" \n")


def test_a_trained_draft_comes_with_the_target_it_was_trained_for() -> None:
    for drafts in (TRAINED_DRAFTS, TRAINED_HEADS):
        for target, draft in drafts.items():
            assert hub.KNOWN_MODELS[draft].target == target
            assert draft in draft_choices(target)
            assert draft not in target_choices()


@pytest.mark.parametrize(
    ("backend", "is_apple", "draft"),
    [
        ("auto", False, "smollm2-eagle"),
        ("portable", False, "smollm2-eagle"),
        ("torch", True, "smollm2-eagle"),
        ("portable", True, "smollm2-eagle"),
        ("auto", True, "smollm2-draft"),
        ("mlx", False, "smollm2-draft"),
    ],
)
def test_the_head_drafts_where_its_target_gives_hidden_states(
    backend: str, is_apple: bool, draft: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.settings.is_apple_silicon", lambda: is_apple)
    assert default_draft("smollm2-135m", backend) == draft
    assert RunConfig(backend=backend).draft == draft
    if not is_apple:
        assert next(iter(draft_choices("smollm2-135m"))) == default_draft("smollm2-135m")


def test_the_default_draft_fits_its_target() -> None:
    assert RunConfig(target="some/model").draft == "layer-skip"
    assert RunConfig(target="@cerebras").draft == "ngram"
    assert "layer-skip" not in draft_choices("@cerebras")
    assert "@cerebras" in target_choices()


@pytest.mark.parametrize("tree", ["2-2-1", "3", "auto"])
@pytest.mark.parametrize("draft", ["layer-skip", "a model"])
def test_a_model_drafts_a_tree_where_a_shape_is_given(tiny: str, draft: str, tree: str) -> None:
    name = tiny if draft == "a model" else draft
    pair = make_pair(config(tiny, draft=name, tree=tree))
    assert isinstance(pair.drafter, TreeDrafter)
    assert pair.drafter.name == name
    assert set(pair.digests) == {tiny}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"draft": "layer-skip", "tree": "9"}, "'9' is none of these"),
        ({"draft": "layer-skip", "tree": "two"}, "'two' is none of these"),
        ({"draft": "ngram", "tree": "2-1"}, "ngram drafts no tree"),
        ({"draft": "suffix", "tree": "auto"}, "suffix drafts no tree"),
        ({"draft": "lookahead", "tree": "2-1"}, "lookahead drafts no tree of a given shape"),
        ({"draft": "ngram+lookahead"}, r"a branch: ngram\|lookahead"),
        ({"draft": "none", "tree": "1"}, "none drafts no tree"),
    ],
)
def test_a_shape_that_cannot_be_drafted_is_refused_before_the_run(
    tiny: str, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        make_pair(config(tiny, **changes))


@pytest.mark.parametrize(
    ("draft", "kind", "members"),
    [
        ("ngram+layer-skip", EnsembleDrafter, ["ngram", "layer-skip"]),
        ("ngram | suffix", BranchesDrafter, ["ngram", "suffix"]),
        ("ngram|suffix+layer-skip", BranchesDrafter, ["ngram", "suffix+layer-skip"]),
    ],
)
def test_several_drafters_are_named_with_a_sign_between_them(
    tiny: str, draft: str, kind: type, members: list[str]
) -> None:
    drafter = make_pair(config(tiny, draft=draft)).drafter
    assert isinstance(drafter, kind)
    assert [member.name for member in drafter.members] == members


def test_a_folder_with_a_sign_in_its_name_is_a_model(tmp_path) -> None:
    folder = str(write_tiny_llama(tmp_path / "a+b|c"))
    assert make_pair(config(folder, draft=folder)).drafter.name == folder


@pytest.mark.parametrize("draft", ["ngram|ngram", "ngram+", "|", "a+b+c+d+e"])
def test_a_group_that_makes_no_sense_is_one_sentence(tiny: str, draft: str) -> None:
    with pytest.raises(SpecdecError, match=r"\.$"):
        make_pair(config(tiny, draft=draft))


@pytest.mark.parametrize("rule", ["typical", "greedy", ""])
def test_a_rule_that_would_change_the_law_is_refused_with_the_reason(rule: str) -> None:
    with pytest.raises(SettingsError, match="Both keep the target's distribution"):
        RunConfig(rule=rule)
