"""The three protocols bring back the target's own rows, for chains and for trees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.continuation import Continuation, align, behind
from specdec.targets.server.http import Connection
from specdec.targets.server.prompts import IdPrompt, TextPrompt
from specdec.targets.server.rows import Row, TokenNames
from specdec.targets.server.servers import make_protocol
from specdec.targets.server.wire import Dialect
from tests.made_runs import VOCAB_SIZE, hashed_logits
from tests.targets.server.toy_server import ToyServer

CONTEXT = [11, 42, 7, 99]
CHAIN = Draft.chain([5, 6, 7])
TREE = Draft((5, 6, 7, 8, 9), (-1, 0, 0, -1, 3), (None,) * 5)
SCORING_FORMS = ["prompt_logprobs", "echo", "generate", "prompts", "llama-prompts"]


@st.composite
def trees(draw):
    """Return a draft tree of up to eight nodes."""
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(0, 8)))]
    tokens = [draw(st.integers(0, VOCAB_SIZE - 1)) for _ in parents]
    return Draft(tuple(tokens), tuple(parents), (None,) * len(parents))


@pytest.fixture
def server(httpserver, tokenizer):
    server = ToyServer(tokenizer)
    server.mount(httpserver)
    return server


@pytest.fixture
def dialect(tokenizer):
    extra = {"return_tokens_as_token_ids": True}
    return Dialect("toy", TokenNames(tokenizer), 20, extra=extra)


@pytest.mark.parametrize("draft", [Draft(), CHAIN, TREE], ids=["nothing", "chain", "tree"])
@pytest.mark.parametrize("form", SCORING_FORMS)
def test_every_node_gets_the_row_after_its_path(server, endpoint, dialect, form, draft):
    protocol = make_protocol(form, dialect)
    rows = protocol.ask(Connection(endpoint()), CONTEXT, draft).rows
    assert len(server.requests) == 1  # one call, whatever the draft
    for node, row in enumerate(rows, start=-1):
        path = draft.tokens_to(node)
        expected = hashed_logits([*CONTEXT, *path])
        likeliest = np.argsort(-expected)[:20]
        assert row.token_ids[:20].tolist() == likeliest.tolist()
        differences = row.logprobs[:20] - expected[likeliest]
        np.testing.assert_allclose(differences, differences[0], atol=1e-5)


def test_a_lone_sequence_travels_as_one_prompt(server, endpoint, dialect):
    make_protocol("prompt_logprobs", dialect).ask(Connection(endpoint()), CONTEXT, CHAIN)
    assert server.requests[0]["prompt"] == [*CONTEXT, 5, 6, 7]


@pytest.mark.parametrize(
    ("form", "draft", "num_prompts"),
    [
        ("prompt_logprobs", CHAIN, 1),
        ("prompt_logprobs", TREE, len(TREE.leaves)),
        ("prompts", CHAIN, 1 + len(CHAIN)),
        ("prompts", TREE, 1 + len(TREE)),
    ],
)
def test_an_answer_says_how_many_prompts_it_took(
    server, endpoint, dialect, form, draft, num_prompts
):
    answer = make_protocol(form, dialect).ask(Connection(endpoint()), CONTEXT, draft)
    sent = server.requests[0]["prompt"]
    assert answer.num_sequences == num_prompts
    assert num_prompts == (1 if isinstance(sent[0], int) else len(sent))


def test_the_server_is_asked_at_temperature_1_so_that_its_numbers_are_raw(
    server, endpoint, dialect
):
    for form in ("prompt_logprobs", "echo", "prompts"):
        make_protocol(form, dialect).ask(Connection(endpoint()), CONTEXT, CHAIN)
    assert [asked["temperature"] for asked in server.requests] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("naming", ["id", "text", "objects"])
def test_a_continuation_knows_rows_up_to_the_first_divergence(
    httpserver, endpoint, tokenizer, naming
):
    ToyServer(tokenizer, naming=naming).mount(httpserver)
    extra = {"return_tokens_as_token_ids": True} if naming == "id" else {}
    dialect = Dialect("toy", TokenNames(tokenizer), 20, naming == "objects", extra)
    protocol = Continuation(dialect, IdPrompt())
    context = [*b"the tin"]
    greedy = int(hashed_logits(context).argmax())
    draft = Draft.chain([greedy, 50, 60])
    rows = protocol.ask(Connection(endpoint()), context, draft).rows
    follows = TokenNames(tokenizer).id_of(tokenizer.token_text(greedy)) == greedy
    assert [row is not None for row in rows] == [True, naming != "text" or follows, False, False]


def test_a_continuation_never_sends_the_draft(server, endpoint, dialect):
    Continuation(dialect, IdPrompt()).ask(Connection(endpoint()), CONTEXT, CHAIN)
    assert server.requests[0]["prompt"] == CONTEXT
    assert server.requests[0]["max_tokens"] == 4


def test_a_server_after_temperature_is_continued_at_temperature_1(server, endpoint, dialect):
    Continuation(dialect, IdPrompt(), greedy=False).ask(Connection(endpoint()), CONTEXT, CHAIN)
    assert server.requests[0]["temperature"] == 1.0


@given(trees(), st.data())
def test_aligned_rows_belong_to_contexts_that_the_target_really_had(drawn, data):
    """The target writes along a path of the tree and then, mostly, something else."""
    draft = replace(drawn, token_ids=tuple(range(len(drawn))))
    followed = draft.tokens_to(data.draw(st.integers(-1, len(draft) - 1)))
    written = followed + data.draw(st.lists(st.integers(0, 20), max_size=3))
    positions = [(token, Row.make([(i, -1.0)])) for i, token in enumerate(written)]
    for node, row in enumerate(align(draft, positions), start=-1):
        path = draft.tokens_to(node)
        is_known = len(path) < len(written) and written[: len(path)] == path
        assert (None if row is None else row.token_ids.tolist()) == (
            [len(path)] if is_known else None
        )


def test_a_text_prompt_is_what_the_server_makes_the_same_ids_of(tokenizer):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "the ant 😀"}])
    text, num_held = TextPrompt(tokenizer, adds_start_token=False)(ids)
    assert num_held == 0
    assert text.startswith("<|im_start|>user\nthe ant 😀<|im_end|>")
    assert tokenizer.vocabulary.encode(text, with_controls=True) == ids


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_beginning_of_a_character_is_held_back(tokenizer, missing):
    ids = tokenizer.encode("the 😀")  # the emoji is three tokens: its first two bytes are one
    write = TextPrompt(tokenizer, adds_start_token=False)
    expected = ("the 😀", 0) if not missing else ("the ", 3 - missing)
    assert write(ids[: len(ids) - missing]) == expected


def test_bytes_that_are_no_text_cannot_be_sent_as_text(tokenizer):
    ids = [*tokenizer.encode("😀")[:-1], *tokenizer.encode("tin tin")]
    with pytest.raises(TargetError, match="bytes that are no characters"):
        TextPrompt(tokenizer, adds_start_token=False)(ids)


@given(trees(), st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=3))
def test_a_draft_behind_held_tokens_has_its_paths_behind_them(draft, held):
    whole = behind(held, draft)
    for node in range(-1, len(draft)):
        path = draft.tokens_to(node)
        there = whole.tokens_to(node + len(held))
        assert there == [*held, *path]


def test_a_held_character_is_written_again_by_the_server_and_read_past(
    server, endpoint, dialect, tokenizer
):
    prompt = tokenizer.encode("the ")
    first = int(hashed_logits(prompt).argmax())
    protocol = Continuation(dialect, lambda context: (list(context[:-1]), 1))
    draft = Draft.chain([5])
    answer = protocol.ask(Connection(endpoint()), [*prompt, first], draft)
    assert server.requests[0]["max_tokens"] == 3
    expected = int(hashed_logits([*prompt, first]).argmax())
    assert answer.rows[0].best() == expected
    with pytest.raises(TargetError, match="would have begun another"):
        protocol.ask(Connection(endpoint()), [*prompt, first + 1], draft)
