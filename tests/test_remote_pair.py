"""A target behind a server, named like any other, with drafts that fit it."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.drafters.model import ModelDrafter
from specdec.drafters.translated import TranslatedDrafter
from specdec.engine import generate
from specdec.errors import ModelError, SettingsError
from specdec.models.tokenizer import Tokenizer
from specdec.pair import LoadedModel, load_model, make_pair
from specdec.records import FinishReason
from specdec.settings import RunConfig
from specdec.targets.link import EmulatedLink
from specdec.targets.server.remote import RemoteTarget
from tests.made_runs import PROMPT, hashed_logits
from tests.models.tiny import write_tiny_tokenizer
from tests.targets.server.toy_server import ToyServer
from tests.toy import ToyModel
from tests.toy_tokenizers import write_toy_tokenizer


class PaddedModel(ToyModel):
    """Has a head of 320 rows for a vocabulary of 300, as models often do."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = 320

    def logits_after(self, context):
        return np.concatenate([hashed_logits(context), np.full(20, 99, np.float32)])


@pytest.fixture
def folder(tmp_path):
    write_tiny_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
def load(httpserver, monkeypatch, folder):
    """Return a loader: "@lab" is a server, "same" and "foreign" are drafts on this machine."""
    tokenizer = Tokenizer.load(folder)
    ToyServer(tokenizer, owner="vllm").mount(httpserver)
    for field, value in (
        ("URL", httpserver.url_for("/v1")),
        ("MODEL", "toy"),
        ("TOKENIZER", str(folder)),
        ("PROTOCOL", "prefixes"),
    ):
        monkeypatch.setenv(f"ENDPOINT_LAB_{field}", value)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    foreign = write_toy_tokenizer(folder / "foreign", [*letters, "th", "the"])
    models = {
        "same": LoadedModel(PaddedModel(), tokenizer),
        "foreign": LoadedModel(ToyModel(vocab_size=28), foreign),
        "strange": LoadedModel(
            ToyModel(vocab_size=20),
            write_toy_tokenizer(folder / "strange", [chr(0x4E00 + i) for i in range(20)]),
        ),
    }
    return lambda name, backend: models.get(name) or load_model(name, backend)


def config(**changes) -> RunConfig:
    fields = {"target": "@lab", "draft": "ngram", "temperature": 0.0, "max_tokens": 12}
    return RunConfig(**(fields | changes))


def test_a_run_against_an_endpoint_needs_no_more_than_its_name(load):
    pair = make_pair(config(), load)
    assert isinstance(pair.target, RemoteTarget)
    settings = pair.round_settings(config())
    events = list(generate(pair.encode_prompt(PROMPT), pair.target, settings, max_tokens=12))
    assert events[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("draft", ["same", "foreign"])
def test_a_draft_model_is_fitted_to_the_vocabulary_of_the_endpoint(load, draft):
    pair = make_pair(config(draft=draft), load)
    assert isinstance(pair.drafter, TranslatedDrafter)
    assert pair.drafter.match.same_ids == (draft == "same")
    settings = pair.round_settings(config(draft=draft))
    events = list(generate(pair.encode_prompt(PROMPT), pair.target, settings, max_tokens=12))
    assert events[-1].num_draft_tokens > 0
    assert events[-1].error is None


def test_drafts_on_this_machine_are_fitted_to_targets_on_this_machine(load, folder):
    exact = LoadedModel(PaddedModel(), Tokenizer.load(folder))

    def local(name, backend):
        return exact if name == "here" else load(name, backend)

    assert isinstance(make_pair(config(target="here", draft="same"), local).drafter, ModelDrafter)
    foreign = make_pair(config(target="here", draft="foreign"), local).drafter
    assert isinstance(foreign, TranslatedDrafter)
    assert foreign.target_vocab_size == 320


def test_an_emulated_link_may_stand_before_a_real_one(load):
    assert isinstance(make_pair(config(rtt_ms=1.0), load).target, EmulatedLink)


def test_waits_for_a_server_are_told_while_connecting_and_while_running(load, httpserver):
    busy = {"error": "busy"}
    told, reports = [], []
    httpserver.expect_oneshot_request("/v1/completions").respond_with_json(
        busy, status=503, headers={"Retry-After": "0.2"}
    )
    load_model("@lab", "auto", lambda done, total, what: reports.append(what))
    pair = make_pair(config(), load, told.append)
    httpserver.expect_oneshot_request("/v1/completions").respond_with_json(
        busy, status=503, headers={"Retry-After": "0.2"}
    )
    settings = pair.round_settings(config())
    *_, summary = generate(pair.encode_prompt(PROMPT), pair.target, settings, max_tokens=12)
    assert summary.retry_s >= 0.2
    assert [waiting.begins for waiting in told] == [True]
    assert reports[0] == "connecting to the server"
    for words in (reports[1], str(told[0])):
        assert words.endswith("(HTTP 503: busy). Attempt 2 of 3 follows in 0.2 s.")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"draft": "layer-skip"}, SettingsError, "behind a server; choose ngram or a draft model"),
        ({"draft": "@lab"}, SettingsError, "is behind a server, so it cannot draft"),
        ({"draft": "strange"}, ModelError, "share only 0 of the draft's 20 tokens"),
        ({"target": "@nowhere"}, SettingsError, "no endpoint @nowhere; there are @cerebras, @lab"),
        ({"target": "@cerebras"}, SettingsError, "set CEREBRAS_API_KEY"),
    ],
)
def test_what_does_not_fit_is_said_before_the_run(load, changes, error, words):
    with pytest.raises(error, match=words):
        make_pair(config(**changes), load)
