"""A run across HTTP is the run it would be on this machine, and says what it is exact for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.engine import RoundSettings, generate
from specdec.errors import TargetError
from specdec.records import FinishReason, RoundResult, RunSummary
from specdec.sampling import Distribution, Sampler
from specdec.targets.base import Wanted
from specdec.targets.link import EmulatedLink
from specdec.targets.server.http import Connection
from specdec.targets.server.probe import probe
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.rows import MAX_PADDING
from tests.made_runs import VOCAB_SIZE, BlurredDrafter, HashedTarget, hashed_logits
from tests.targets.server.toy_server import ToyServer

PROMPT = [42, 7, 99, 150]


@pytest.fixture
def remote(httpserver, endpoint, tokenizer):
    """Return a maker of targets behind a toy server."""

    def make(protocol: str, top: int = 20, **abilities) -> RemoteTarget:
        server = ToyServer(tokenizer, owner="vllm", **abilities)
        server.mount(httpserver)
        asked = endpoint(protocol=protocol, top_logprobs=top)
        connection = Connection(asked, sleep=lambda s: None)
        return RemoteTarget(connection, tokenizer, probe(connection, tokenizer))

    return make


def run(target, sampler, *, num_tokens=20, k=3, seed=3):
    settings = RoundSettings(BlurredDrafter(target.vocab_size), k, sampler)
    events = list(generate(PROMPT, target, settings, max_tokens=num_tokens, seed=seed))
    rounds = [event for event in events if isinstance(event, RoundResult)]
    return rounds, events[-1]


def emitted(rounds) -> list[int]:
    return [token for result in rounds for token in result.emitted]


@pytest.mark.parametrize("protocol", ["score", "prefixes", "continue"])
def test_at_temperature_zero_the_tokens_are_those_of_the_model_itself(remote, protocol):
    here, _ = run(HashedTarget(), Sampler(0.0))
    there, summary = run(remote(protocol), Sampler(0.0))
    assert emitted(there) == emitted(here)
    assert summary.num_accepted_draft_tokens > 0
    assert summary.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("protocol", ["score", "prefixes"])
def test_with_the_same_seed_a_top_k_run_is_the_local_run(remote, protocol):
    sampler = Sampler(0.8, 20)
    here, _ = run(HashedTarget(), sampler)
    there, _ = run(remote(protocol), sampler)
    assert emitted(there) == emitted(here)
    for left, right in zip(here, there, strict=True):
        probs = [[c.target_prob for c in side.candidates] for side in (left, right)]
        np.testing.assert_allclose(probs[1], probs[0], atol=1e-6)


def test_the_whole_vocabulary_makes_the_plain_sampler_exact(remote):
    sampler = Sampler(0.8)
    target = remote("prefixes", top=-1, cap=VOCAB_SIZE)
    assert str(target.exactness_for(sampler)) == "exact"
    assert emitted(run(target, sampler)[0]) == emitted(run(HashedTarget(), sampler)[0])


@pytest.mark.parametrize("protocol", ["score", "prefixes", "continue"])
def test_without_enough_alternatives_a_run_has_the_law_of_top_n(remote, protocol):
    """Every row is the target's own distribution under top-k = 20, drafted token or not."""
    target = remote(protocol)
    sampler = Sampler(0.8)
    assert target.exactness_for(sampler).top_k == 20
    context = [*PROMPT]
    draft = Draft.chain([int(np.argmin(hashed_logits(context))), 17, 5])
    rows = target.start(context).score(context, draft).logits
    paths = [context, *([*context, *draft.token_ids[: i + 1]] for i in range(3))]
    for row, path in zip(rows, paths, strict=True):
        if protocol == "continue" and path is not paths[0]:
            assert row is None
            continue
        given = Distribution.from_logits(row, sampler).probs
        expected = Distribution.from_logits(hashed_logits(path), Sampler(0.8, 20)).probs
        np.testing.assert_allclose(given[:VOCAB_SIZE], expected, atol=1e-5)
        assert not given[VOCAB_SIZE:].any()


def test_a_server_that_tells_its_own_time_shows_the_time_of_the_network(remote):
    target = remote("prefixes", server_s=1e-6)
    began_s = time.perf_counter()
    scores = target.start(PROMPT).score(PROMPT, Draft.chain([1, 2]))
    assert 0 < scores.link_s <= time.perf_counter() - began_s


def test_where_the_network_cannot_be_told_from_the_server_its_time_is_zero(remote):
    assert remote("prefixes").start(PROMPT).score(PROMPT, Draft()).link_s == 0.0


def test_an_emulated_link_in_front_keeps_the_contract(remote):
    target = EmulatedLink(remote("prefixes"), 0.001)
    assert target.exactness_for(Sampler(0.8)).top_k == 20


def test_the_status_tells_server_protocol_exactness_and_round_trip(remote):
    lines = {line.question: line.answer for line in remote("prefixes").status(Sampler(0.8))}
    assert lines["server"].startswith("vLLM at localhost:")
    assert lines["protocol"] == "prefixes: one prompt per drafted token, all in one request"
    assert lines["output"].startswith("exact for top-k = 20")
    assert lines["round trip"].endswith(" ms")
    assert "rate limits" not in lines


def test_a_server_that_gives_less_than_it_promised_ends_the_run_with_its_tokens_kept(
    remote, httpserver, tokenizer
):
    target = remote("prefixes")
    httpserver.clear()
    worse = ToyServer(tokenizer, owner="vllm")
    worse.mount(httpserver)
    settings = RoundSettings(BlurredDrafter(target.vocab_size), 2, Sampler(0.0))
    events = generate(PROMPT, target, settings, max_tokens=30)
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, RoundResult):
            worse._top = lambda row, token, count: {
                int(i): float(row[i]) for i in np.argsort(-row)[:3]
            }
    rounds = [event for event in seen if isinstance(event, RoundResult)]
    summary = seen[-1]
    assert isinstance(summary, RunSummary)
    assert summary.finish_reason is FinishReason.ERROR
    assert "3 of the 20 likeliest tokens" in (summary.error or "")
    assert emitted(rounds)


def test_a_foreign_tokenizer_is_found_out_when_a_server_names_what_it_lacks(
    remote, httpserver, tokenizer
):
    target = remote("prefixes")
    httpserver.clear()

    def larger(context):
        return np.concatenate([hashed_logits(context), np.full(MAX_PADDING, -50), [50.0]])

    ToyServer(tokenizer, model=larger, owner="vllm").mount(httpserver)
    with pytest.raises(TargetError, match=f"names token {VOCAB_SIZE + MAX_PADDING}"):
        target.start(PROMPT).score(PROMPT, Draft())


def test_a_server_keeps_its_inner_states_to_itself_and_says_so(remote):
    target = remote("prefixes")
    assert target.cannot_give(Wanted()) is None
    for wanted in (Wanted((1,)), Wanted(attention=True)):
        assert "need a target on this machine" in target.cannot_give(wanted)
        assert EmulatedLink(target, 0.001).cannot_give(wanted) == target.cannot_give(wanted)
