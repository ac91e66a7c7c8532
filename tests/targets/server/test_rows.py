"""What a server says about one position, and what it may not say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.errors import TargetError
from specdec.sampling import Distribution, Sampler
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import (
    Row,
    TokenNames,
    from_names,
    from_objects,
    from_prompt_logprobs,
    from_triples,
)

NAN, INFINITY = float("nan"), float("inf")


class Words:
    """A vocabulary of four: two with the same text, one that is a part of a character."""

    vocab_size = 5
    _bytes = (b"a", b" the", b"a", b"\xf0\x9f", b"")

    def token_bytes(self, token_id):
        return self._bytes[token_id]


@st.composite
def distributions(draw):
    """Return log-probabilities of up to 30 tokens, no two alike."""
    weights = draw(st.lists(st.integers(1, 10**6), min_size=2, max_size=30, unique=True))
    return np.log(np.array(weights) / sum(weights))


@given(distributions(), st.integers(1, 30), st.floats(0.1, 2.0), st.data())
def test_the_top_n_of_a_server_is_all_that_top_k_sampling_needs(logprobs, n, temperature, data):
    n = min(n, logprobs.size)
    top = np.argsort(-logprobs)[:n].tolist()
    drafted = data.draw(st.integers(0, logprobs.size - 1))
    row = Row.make((i, float(logprobs[i])) for i in {*top, drafted})
    sampler = Sampler(temperature, data.draw(st.integers(1, n)), data.draw(st.floats(0.1, 1.0)))
    known = Distribution.from_logits(row.logits(logprobs.size, n).astype(float), sampler)
    full = Distribution.from_logits(logprobs, sampler)
    np.testing.assert_allclose(known.probs, full.probs, atol=1e-6)


@given(distributions(), st.integers(1, 29))
def test_the_drafted_token_never_widens_the_support(logprobs, n):
    n = min(n, logprobs.size - 1)
    order = np.argsort(-logprobs)
    row = Row.make((int(i), float(logprobs[i])) for i in (order[-1], *order[:n]))
    assert set(np.flatnonzero(np.isfinite(row.logits(logprobs.size, n)))) == set(order[:n].tolist())


def test_the_four_formats_say_the_same():
    expected = [(7, -0.5), (3, -1.5)]
    rows = [
        from_prompt_logprobs(Value({"3": {"logprob": -1.5, "rank": 2}, "7": {"logprob": -0.5}})),
        from_triples(Value([[-1.5, 3, None], [-0.5, 7, " a"]])),
        from_names(Value({"token_id:3": -1.5, "token_id:7": -0.5}), TokenNames(Words())),
        from_objects(Value([{"id": 3, "token": "x", "logprob": -1.5}, {"id": 7, "logprob": -0.5}])),
    ]
    for row in rows:
        assert list(zip(row.token_ids, row.logprobs, strict=True)) == expected
        assert row.num_unknown == 0


def test_only_a_text_that_one_token_has_names_a_token():
    names = TokenNames(Words())
    row = from_names(Value({" the": -1.0, "a": -2.0, "": -3.0, "�": -4.0, "new": -5.0}), names)
    assert row.token_ids.tolist() == [1]
    assert row.num_unknown == 4


@pytest.mark.parametrize("value", [NAN, 0.5, INFINITY, "−1", None, True, [1]])
def test_what_is_no_log_probability_is_refused(value):
    with pytest.raises(TargetError, match="log-probabilit"):
        Value(value).logprob()


def test_zeros_for_everything_are_refused():
    with pytest.raises(TargetError, match=r"add up to 3\.00"):
        Row.make([(0, 0.0), (1, 0.0), (2, 0.0)])


@pytest.mark.parametrize("nothing", [-9999.0, -9999, -INFINITY, -3.4028235e38, -1e308])
def test_a_token_that_is_named_as_impossible_is_named(nothing):
    row = from_objects(Value([{"id": 0, "logprob": -0.1}, {"id": 1, "logprob": nothing}]))
    assert row.token_ids.tolist() == [0, 1]
    assert row.logits(3, 2).tolist() == [np.float32(-0.1), -INFINITY, -INFINITY]


def test_a_row_in_which_nothing_is_possible_is_refused():
    with pytest.raises(TargetError, match="probability of 0"):
        Row.make([(0, -INFINITY), (1, -INFINITY)])


def test_rounding_to_bfloat16_is_no_lie():
    assert len(Row.make([(0, math.log(0.5) + 0.004), (1, math.log(0.5) + 0.004)])) == 2


def test_of_two_equally_likely_tokens_none_is_the_best():
    assert Row.make([(0, -1.0), (1, -0.9)]).best() == 1
    assert Row.make([(0, -1.0), (1, -1.0)]).best() is None
    assert Row.make([]).best() is None


def test_an_id_outside_the_vocabulary_names_the_setting_to_correct():
    with pytest.raises(TargetError, match="endpoint's tokenizer"):
        Row.make([(9, -1.0)]).logits(5, 3)
