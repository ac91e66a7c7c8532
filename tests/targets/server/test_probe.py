"""The probe finds out what a server can do, and is taken in by none of the known fakes."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import processors

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.sampling import Sampler
from specdec.targets.server.http import Connection
from specdec.targets.server.probe import Probed, probe
from specdec.targets.server.remote import connect
from tests.models.tiny import write_tiny_tokenizer
from tests.targets.server.toy_server import ToyServer

FULL, GREEDY, TOP_20, TOP_21 = Sampler(1.0), Sampler(0.0), Sampler(0.8, 20), Sampler(0.8, 21)


@pytest.fixture
def look(httpserver, endpoint, tokenizer):
    """Return a function that probes a toy server with the given abilities."""

    def look(server_kind: str = "auto", protocol: str = "auto", top: int = 20, **abilities):
        server = ToyServer(tokenizer, **abilities)
        server.mount(httpserver)
        asked = endpoint(server=server_kind, protocol=protocol, top_logprobs=top)
        return probe(Connection(asked, sleep=lambda s: None), tokenizer), server

    return look


def answers(probed: Probed) -> dict[str, str]:
    return {finding.question: finding.answer for finding in probed.findings}


def test_vllm_is_recognised_and_asked_by_id(look):
    probed, _ = look(owner="vllm")
    can = probed.capabilities
    assert (can.server, can.takes_ids, can.names_ids, can.top_logprobs) == ("vLLM", True, True, 20)
    assert can.protocol in ("score", "prefixes")
    assert can.score_s is not None
    assert can.prefixes_s is not None
    faster = "score" if can.score_s <= can.prefixes_s else "prefixes"
    assert can.protocol == faster
    assert answers(probed)["verification of four tokens"].endswith(f": {faster} it is")


@pytest.mark.parametrize("how", ["refused", "ignored", "zeros", "null", "shifted"])
def test_no_fake_score_is_believed(look, how):
    probed, _ = look(prompt_logprobs=how, echo=how)
    assert probed.capabilities.protocol == "prefixes"
    assert answers(probed)["prompt_logprobs"].startswith("no: ")
    assert answers(probed)["echo"].startswith("no: ")


def test_a_shift_by_one_is_named(look):
    probed, _ = look(prompt_logprobs="refused", echo="shifted", takes_many=False)
    assert "shifted by one token" in answers(probed)["echo"]
    assert probed.capabilities.protocol == "continue"


def test_a_server_for_single_prompts_is_left_to_continue(look):
    probed, _ = look(prompt_logprobs="ignored", echo="ignored", takes_many=False)
    assert probed.capabilities.protocol == "continue"
    assert "1 of 4 prompts" in answers(probed)["prompts"]


def test_a_server_that_refuses_unknown_fields_is_asked_without_them(look):
    probed, server = look(strict=True, echo="refused")
    can = probed.capabilities
    assert (can.protocol, can.takes_ids, can.names_ids) == ("prefixes", True, False)
    assert set(server.requests[-1]) == {
        *("model", "prompt", "max_tokens", "temperature", "top_p", "logprobs")
    }


def test_a_text_only_server_never_sees_several_prompts(look):
    probed, server = look(takes_ids=False)
    assert probed.capabilities.takes_ids is False
    assert probed.capabilities.protocol == "continue"
    sent = [asked["prompt"] for asked in server.requests]
    assert any(isinstance(prompt, str) for prompt in sent)
    assert not [p for p in sent if isinstance(p, list) and not isinstance(p[0], int)]


def test_a_server_that_wants_a_bool_is_asked_as_it_likes(look):
    probed, server = look(naming="objects", prompt_logprobs="refused", echo="refused", cap=11)
    can = probed.capabilities
    assert (can.names_ids, can.top_logprobs, can.protocol) == (True, 11, "prefixes")
    assert server.requests[-1]["logprobs"] is True


@pytest.mark.parametrize("cap", [20, 11, 5, 1])
def test_the_cap_is_found_by_asking_for_too_much(look, cap):
    probed, _ = look(top=50, cap=cap)
    assert probed.capabilities.top_logprobs == cap


def test_the_whole_vocabulary_is_exact_for_every_sampler(look):
    probed, _ = look(server_kind="vllm", top=-1, cap=1000)
    can = probed.capabilities
    assert can.top_logprobs == can.vocab_size == 300
    assert can.exactness_for(FULL).kind == "exact"


def test_a_capped_server_is_not_taken_for_the_whole_vocabulary(look):
    probed, _ = look(server_kind="vllm", top=-1, cap=20)
    assert probed.capabilities.top_logprobs == 20
    assert not probed.capabilities.whole_vocabulary


def test_log_probabilities_after_temperature_are_found_out(look):
    probed, _ = look(
        after_temperature=True, echo="ignored", prompt_logprobs="ignored", takes_many=False
    )
    assert "after temperature" in answers(probed)["log-probabilities"]
    # At temperature 0 this server shows the raw numbers, so the continuation may be greedy.
    assert probed.capabilities.protocol == "continue"


def test_sglang_is_asked_in_its_own_words(look):
    can = look(owner="sglang")[0].capabilities
    assert (can.form, can.protocol, can.names_ids) == ("generate", "score", True)


def test_llama_server_is_asked_in_its_own_words(look):
    probed, _ = look(owner="llamacpp", naming="objects")
    can = probed.capabilities
    assert (can.form, can.protocol, can.names_ids) == ("llama-prompts", "prefixes", True)


@pytest.mark.parametrize("protocol", ["score", "prefixes", "continue"])
def test_a_protocol_that_was_asked_for_is_taken(look, protocol):
    assert look(protocol=protocol)[0].capabilities.protocol == protocol


def test_a_protocol_that_the_server_cannot_do_is_refused_in_a_sentence(look):
    with pytest.raises(TargetError, match="cannot verify by score; set its protocol to auto"):
        look(protocol="score", prompt_logprobs="ignored", echo="ignored")


def test_an_unknown_model_is_named_with_those_there_are(look):
    with pytest.raises(TargetError, match="serves llama, qwen, but no toy"):
        look(models=("llama", "qwen"))


@pytest.mark.parametrize("cap", [20, 1])
def test_a_server_of_zeros_cannot_verify(look, cap):
    with pytest.raises(TargetError, match=r"zeros|add up to"):
        look(zeros=True, cap=cap)


def test_a_server_without_log_probabilities_cannot_verify(look):
    with pytest.raises(TargetError, match="returns no log-probabilities"):
        look(silent=True)


@pytest.fixture
def starting(tmp_path) -> Tokenizer:
    """Return a tokenizer that puts <|im_start|> (1) before a text, as Llama's does."""
    write_tiny_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    engine = Engine.from_file(str(file))
    engine.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    engine.save(str(file))
    return Tokenizer.load(tmp_path)


@pytest.mark.parametrize("start_token", [None, 1])
def test_a_start_token_is_sent_once_whoever_adds_it(httpserver, endpoint, starting, start_token):
    server = ToyServer(starting, takes_ids=False, start_token=start_token)
    server.mount(httpserver)
    connection = Connection(endpoint(), sleep=lambda s: None)
    probed = probe(connection, starting)
    context = starting.encode("the tin", add_special_tokens=True)
    text, _ = probed.write_prompt(context)
    assert text == ("the tin" if start_token else "<|im_start|>the tin")
    assert server._prompts(text) == [context]


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_a_model_list_is_probed_all_the_same(look, httpserver, status):
    httpserver.expect_request("/v1/models").respond_with_json({"detail": "no"}, status=status)
    can = look()[0].capabilities
    assert (can.server, can.names_ids) == ("an OpenAI-compatible server", True)
    assert can.rtt_s > 0


@pytest.mark.parametrize("listing", [{"data": "toy"}, {"data": ["toy"]}, {"data": {"id": 1}}])
def test_a_model_list_of_another_shape_is_one_sentence(httpserver, endpoint, tokenizer, listing):
    httpserver.expect_request("/v1/models").respond_with_json(listing)
    with pytest.raises(TargetError, match="has not the shape"):
        probe(Connection(endpoint()), tokenizer)


@pytest.mark.parametrize(("start_token", "words"), [(None, "none added"), (1, "by the server")])
def test_whether_the_server_adds_a_start_token_is_told(
    httpserver, endpoint, starting, start_token, words
):
    ToyServer(starting, takes_ids=False, start_token=start_token).mount(httpserver)
    probed = probe(Connection(endpoint(), sleep=lambda s: None), starting)
    assert words in answers(probed)["start token before a prompt"]


def test_a_missing_key_is_named_before_anything_is_asked(endpoint, tokenizer, httpserver):
    with pytest.raises(ValueError, match="set LAB_KEY"):
        connect(endpoint(key_variable="LAB_KEY"), tokenizer)
    assert not httpserver.log


def test_what_a_run_is_exact_for_follows_from_what_was_found(look):
    can = look(owner="vllm")[0].capabilities
    assert str(can.exactness_for(GREEDY)) == "exact"
    assert str(can.exactness_for(TOP_20)) == "exact"
    assert can.exactness_for(TOP_21).top_k == 20
    assert str(can.exactness_for(TOP_21)).startswith("exact for top-k = 20: the server returns")
    assert "no top-k was asked for" in can.exactness_for(FULL).reason


@pytest.mark.parametrize(
    ("abilities", "words"),
    [({"takes_ids": False}, "tokenised again"), ({"naming": "text"}, "by their text")],
)
def test_text_makes_every_run_approximate(look, abilities, words):
    can = look(**abilities)[0].capabilities
    for sampler in (FULL, GREEDY, TOP_20):
        assert can.exactness_for(sampler).kind == "approximate"
        assert words in can.exactness_for(sampler).reason


def test_an_approximate_run_says_too_where_its_distribution_is_cut_off(look):
    can = look(takes_ids=False)[0].capabilities
    cut = can.exactness_for(FULL)
    assert (cut.kind, cut.top_k) == ("approximate", 20)
    assert "only its 20 likeliest tokens, and no top-k was asked for" in cut.reason
    assert can.exactness_for(TOP_20).top_k is None
