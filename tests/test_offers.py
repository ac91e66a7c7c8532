"""What a shared machine offers, and that a refusal tells nothing about what it does not."""

from __future__ import annotations

import json

import pytest

from specdec.errors import SettingsError
from specdec.offers import Offers
from specdec.pair import draft_choices, load_model, make_pair, target_choices
from specdec.settings import RunConfig


@pytest.fixture
def models(tmp_path):
    """A folder of models, one of them a link to a secret place beside it."""
    for place in ("models/llama", "secret/llama"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({}))
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret" / "llama")
    return tmp_path / "models"


def offering(monkeypatch, models=None, targets=None):
    for name, value in (("SPECDEC_MODELS", models), ("SPECDEC_TARGETS", targets)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return Offers.from_environment()


@pytest.mark.parametrize(
    ("models_listed", "targets_listed", "name", "may_open", "may_be_target"),
    [
        (None, None, "any/thing", True, True),
        (None, None, "@cerebras", True, True),
        ("smollm2-135m", None, "smollm2-135m", True, True),
        ("smollm2-135m", None, "smollm2-draft", False, False),
        ("smollm2-135m, smollm2-draft", None, "smollm2-draft", True, True),
        ("smollm2-135m", None, "@cerebras", True, True),
        ("", None, "smollm2-135m", False, False),
        ("smollm2-draft", "smollm2-135m", "smollm2-135m", True, True),
        ("smollm2-draft", "smollm2-135m", "smollm2-draft", True, False),
        (None, "@lab", "@cerebras", False, False),
        (None, "@lab", "@lab", True, True),
        (None, "@lab", "smollm2-135m", True, False),
        (None, "", "@cerebras", False, False),
        ("org/name", None, "org/name", True, True),
        ("org/name", None, "org/name2", False, False),
        ("org/name", None, "org/name/..", False, False),
        ("{models}", None, "{models}/llama", True, True),
        ("{models}", None, "{models}/later.gguf", True, True),
        ("{models}", None, "{models}/../secret/llama", False, False),
        ("{models}", None, "{models}/link", False, False),
        ("{models}", None, "{models}x", False, False),
        ("{models}", None, "/", False, False),
        ("{models}", None, "~root", False, False),
        ("{models}/llama", None, "{models}/llama", True, True),
        ("{models}/llama", None, "{models}", False, False),
    ],
)
def test_the_lists_are_obeyed(
    models, monkeypatch, models_listed, targets_listed, name, may_open, may_be_target
):
    listed = [text and text.format(models=models) for text in (models_listed, targets_listed)]
    offers = offering(monkeypatch, *listed)
    name = name.format(models=models)
    assert offers.models_among([name]) == [name] * may_open
    assert offers.targets_among([name]) == [name] * may_be_target
    if not may_open:
        with pytest.raises(SettingsError, match="does not offer"):
            load_model(name, "portable")
    if not may_be_target:
        with pytest.raises(SettingsError, match="does not offer"):
            make_pair(RunConfig(target=name, draft="none"))


def test_a_refusal_is_the_same_whether_something_is_there_or_not(models, monkeypatch):
    offers = offering(monkeypatch, f"smollm2-135m,{models}")

    def refusal(place):
        with pytest.raises(SettingsError) as refused:
            offers.check_model(str(place))
        return str(refused.value).replace(str(place), "PLACE")

    there = models.parent / "secret" / "llama"
    assert refusal(there) == refusal(models.parent / "nowhere") == refusal("/etc/passwd")
    assert refusal(there) == "This machine does not offer 'PLACE'; choose smollm2-135m."


def test_what_can_be_chosen_is_what_is_offered(models, monkeypatch):
    listed = f"smollm2-135m, org/name, {models}, {models}/llama"
    assert offering(monkeypatch, listed).takes_names
    assert target_choices() == ["smollm2-135m", "org/name", f"{models}/llama", "@cerebras"]
    offering(monkeypatch, "smollm2-135m,smollm2-draft", "smollm2-135m")
    assert target_choices() == ["smollm2-135m"]
    assert "smollm2-draft" in draft_choices("smollm2-135m")
    assert not offering(monkeypatch, "smollm2-135m").takes_names
    drafts = draft_choices("smollm2-135m")
    assert "ngram" in drafts
    assert not any("smollm2-draft" in name for name in drafts)
