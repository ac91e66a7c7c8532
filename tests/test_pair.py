"""Names become a target, a drafter and a tokenizer, and the choices offered fit the target."""

from __future__ import annotations

import pytest

from specdec.drafters.model import ModelDrafter
from specdec.errors import SettingsError
from specdec.models.fetch import hub
from specdec.pair import (
    DRAFT_STRATEGIES,
    draft_choices,
    load_model,
    make_drafter,
    make_pair,
    target_choices,
)
from specdec.settings import TRAINED_DRAFTS, RunConfig, default_draft
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
        assert make_drafter(name, loaded, "portable").name == name


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
    for target, draft in TRAINED_DRAFTS.items():
        assert hub.KNOWN_MODELS[draft].target == target
        assert next(iter(draft_choices(target))) == draft == default_draft(target)
        assert draft not in target_choices()


def test_the_default_draft_fits_its_target() -> None:
    assert RunConfig(target="some/model").draft == "layer-skip"
    assert RunConfig(target="@cerebras").draft == "ngram"
    assert "layer-skip" not in draft_choices("@cerebras")
    assert "@cerebras" in target_choices()
