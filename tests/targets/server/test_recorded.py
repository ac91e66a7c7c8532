"""Every response shape that real servers were recorded with, read by the code that runs."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_httpserver import HTTPServer

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.continuation import Continuation
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.faults import HttpError
from specdec.targets.server.http import Connection
from specdec.targets.server.prefixes import CompletionPrefixes, Prefixes
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import TokenNames
from specdec.targets.server.score import Echo, PromptLogprobs
from specdec.targets.server.servers import recognise
from specdec.targets.server.wire import Dialect
from tests.targets.server.recorded import (
    body_of,
    names,
    replay,
    replay_any,
    request_of,
    response_of,
)

FRANCE = [504, 3575, 282, 4649, 314]  # "The capital of France is"
PARIS, STOP, NEWLINE, THE = 7042, 30, 198, 504


class NoWords:
    """Names nothing by its text: what is recorded by id must be read without any."""

    vocab_size = 0


@pytest.fixture
def dialect() -> Dialect:
    return Dialect("smollm2", TokenNames(NoWords()), 3, extra={"return_token_ids": True})


def connect(httpserver: HTTPServer) -> Connection:
    endpoint = Endpoint("lab", httpserver.url_for(""), "smollm2", read_timeout_s=5)
    return Connection(endpoint, "secret-key", sleep=lambda seconds: None)


def chosen(choice: Value) -> list[int]:
    return [entry["id"].token_id() for entry in choice["logprobs"]["content"].items()]


def best(rows) -> list[tuple[int, float]]:
    return [(int(row.token_ids[0]), round(float(row.logprobs[0]), 3)) for row in rows]


def test_vllm_scores_a_prompt_before_each_token_and_after_the_last(dialect):
    (rows,) = PromptLogprobs(dialect).read(
        body_of("vllm/04_prompt_logprobs3_as_token_ids"), [FRANCE], 1
    )
    assert best(rows) == [
        (29, -0.859),
        (282, -0.34),
        (260, -2.183),
        (314, -0.453),
        (PARIS, -0.262),
    ]
    # " capital" is unlikely after "The": it comes as a fourth entry, behind the three best.
    assert rows[0].token_ids.tolist()[-1] == FRANCE[1]


def test_vllm_echo_gives_the_same_rows_as_prompt_logprobs(dialect):
    (scored,) = PromptLogprobs(dialect).read(
        body_of("vllm/04_prompt_logprobs3_as_token_ids"), [FRANCE], 1
    )
    (echoed,) = Echo(dialect).read(body_of("vllm/04_echo_return_token_ids"), [FRANCE], 1)
    assert best(echoed) == best(scored)


def test_a_batch_of_prefixes_gives_the_row_after_each(dialect):
    rows = CompletionPrefixes(dialect).read(body_of("vllm/04_batch_of_prompts_ids"), 3)
    assert best(rows) == [(PARIS, -0.262), (STOP, -0.386), (NEWLINE, -1.011)]


def test_a_whole_verification_over_http_asks_as_recorded_and_reads_what_came(httpserver, dialect):
    name = "vllm/12_batch_verify_K3"
    prompts = request_of(name)["body"]["prompt"]
    httpserver.expect_request("/v1/completions").respond_with_handler(lambda r: replay(name))
    draft = Draft.chain([prompts[-1][len(prompts[0]) + i] for i in range(3)])
    answer = Prefixes(CompletionPrefixes(dialect)).ask(connect(httpserver), prompts[0], draft)
    assert [len(row) for row in answer.rows] == [5, 5, 5, 5]
    assert httpserver.log[0][0].get_json()["prompt"] == prompts


def test_the_actual_token_must_be_in_every_scored_row(dialect):
    body = body_of("vllm/04_prompt_logprobs3_as_token_ids")
    with pytest.raises(TargetError, match="other tokens"):
        PromptLogprobs(dialect).read(body, [[504, 3575, 282, 4649, 315]], 1)


@pytest.mark.parametrize(
    "name",
    ["vllm/03_echo_max0_prompt_of_one_token", "llama_cpp_python/03_echo_lp20_max1"],
)
def test_an_echo_of_the_wrong_length_is_no_score(dialect, name):
    with pytest.raises(TargetError, match="does not score prompts"):
        Echo(dialect).read(body_of(name), [FRANCE], 1)


def test_an_ignored_echo_is_no_score(dialect):
    with pytest.raises(TargetError, match="does not score prompts"):
        Echo(dialect).read(body_of("vllm/02_plain_ids_lp20"), [FRANCE], 1)


def test_a_server_that_ignores_prompt_logprobs_is_found_out(dialect):
    with pytest.raises(TargetError, match="does not score prompts"):
        PromptLogprobs(dialect).read(body_of("vllm/02_plain_ids_lp20"), [FRANCE], 1)


def test_colliding_texts_lose_tokens_and_ids_do_not(dialect):
    by_text = dialect.generated(*dialect.choices(body_of("vllm/08_dup_token_strings"), 1))[0]
    by_id = dialect.generated(*dialect.choices(body_of("vllm/08_dup_token_strings_as_ids"), 1))[0]
    assert (by_text[0], len(by_text[1]), by_text[1].num_unknown) == (None, 0, 1)
    assert (by_id[0], len(by_id[1]), by_id[1].num_unknown) == (235, 20, 0)


def test_what_a_server_side_sampler_excluded_is_impossible(dialect):
    ((_, row),) = dialect.generated(*dialect.choices(body_of("vllm/06_processed_T1_topk3"), 1))
    assert row.token_ids[np.isfinite(row.logprobs)].tolist() == [216, 284, 4563]


@pytest.mark.parametrize("mode", ["raw", "processed"])
def test_prompt_scores_are_raw_whatever_the_temperature_and_mode(dialect, mode):
    """At temperature 2 they are those of the same prompt at temperature 0, above."""
    body = body_of(f"vllm/06_{mode}_prompt_logprobs_T2")
    ((*rows, after_the_last),) = PromptLogprobs(dialect).read(body, [FRANCE], 1)
    assert best(rows) == [(29, -0.859), (282, -0.34), (260, -2.183), (314, -0.453)]
    assert after_the_last is None  # nothing was asked about what it writes


def test_mlx_hides_the_chosen_token_behind_an_unsorted_list(dialect):
    (told,) = body_of("mlx_lm/01_plain_text_logprobs_true")["choices"].items()
    written = chosen(told)
    (choice,) = body_of("mlx_lm/01_plain_text_top5")["choices"].items()
    assert chosen(choice) != written
    assert [token for token, _ in dialect.generated(choice, greedy=True)] == written
    assert [token for token, _ in dialect.generated(choice)] == [None] * 5


def test_mlx_follows_a_draft_as_long_as_it_agrees(httpserver):
    dialect = Dialect("default_model", TokenNames(NoWords()), 5, chat_logprobs=True)
    protocol = Continuation(dialect, lambda ids: ("The capital of France is", 0))
    name = "mlx_lm/01_plain_text_top5"
    httpserver.expect_request("/v1/completions").respond_with_handler(lambda r: replay(name))
    draft = Draft.chain([PARIS, STOP, THE, THE])
    rows = protocol.ask(connect(httpserver), FRANCE, draft).rows
    assert [row is None for row in rows] == [False, False, False, True, True]
    asked = httpserver.log[0][0].get_json()
    recorded = request_of(name)["body"]
    assert {field: asked[field] for field in recorded} == recorded


def test_log_probabilities_without_alternatives_are_refused(dialect):
    choice = body_of("mlx_lm/01_plain_text_top0")["choices"].items()[0]
    with pytest.raises(TargetError, match="shape"):
        dialect.generated(choice)


def test_an_answer_without_log_probabilities_has_no_rows(dialect):
    assert dialect.generated(body_of("vllm/01c_plain_text_no_logprobs")["choices"].items()[0]) == []


def test_one_answer_to_several_prompts_is_refused(dialect):
    with pytest.raises(TargetError, match="1 of 3 prompts"):
        CompletionPrefixes(dialect).read(body_of("vllm/02_plain_ids_lp20"), 3)


ERRORS = [name for status in (400, 401, 404, 405, 500, 503) for name in names(status)]


@pytest.mark.parametrize("name", ERRORS)
def test_every_recorded_refusal_becomes_one_sentence(httpserver, name):
    httpserver.expect_request("/v1/completions").respond_with_handler(lambda r: replay(name))
    with pytest.raises(HttpError) as caught:
        connect(httpserver).post("/v1/completions", {"prompt": "Hi"})
    sentence = str(caught.value)
    assert caught.value.status == response_of(name)["status"]
    assert sentence.startswith("lab (localhost:")
    assert sentence.endswith(").")
    assert "\n" not in sentence
    assert len(sentence) < 500


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm/05_err_unknown_model", "The model `nope` does not exist"),  # error.message
        ("vllm/05_auth_wrong", "did not accept the API key"),  # error is a string
        ("vllm/05_err_unknown_path", "Not Found"),  # detail
        ("vllm/05_err_prompt_too_long_ids", "maximum context length is 2048"),
        ("mlx_lm/05_err_top_logprobs_12", "top_logprobs must be at most 11"),
        ("mlx_lm/05_err_unknown_path", "Not Found"),  # plain text
        ("llama_cpp_python/05_auth_wrong", "Invalid API key"),
        ("llama_cpp_python/05_err_malformed_json", "failed; look at its log"),
    ],
)
def test_refusals_keep_what_the_server_said(httpserver, name, words):
    httpserver.expect_request("/v1/completions").respond_with_handler(lambda r: replay(name))
    with pytest.raises(HttpError, match=words):
        connect(httpserver).post("/v1/completions", {"prompt": "Hi"})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vllm/09_models", "vllm"),
        ("mlx_lm/09_models", "mlx"),
        ("mlx_lm/09_models_with_cache_dir", "mlx"),
        ("llama_cpp_python/09_models", "auto"),
    ],
)
def test_servers_are_recognised_by_their_model_list(name, kind):
    recorded = response_of(name)
    headers = {key.title(): value for key, value in recorded["headers"].items()}
    listed = Value(recorded.get("body")).get("data")
    assert recognise(headers, listed.items() if listed else []) == kind


def test_recordings_answer_only_what_they_were_asked(httpserver, dialect):
    name = "vllm/04_batch_of_prompts_ids"
    httpserver.expect_request("/v1/completions").respond_with_handler(replay_any(name))
    reply = connect(httpserver).post("/v1/completions", request_of(name)["body"])
    assert best(CompletionPrefixes(dialect).read(reply.body, 3))[0] == (PARIS, -0.262)
