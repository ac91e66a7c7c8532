"""Weights are loaded once for everybody, and a failure is nobody's for long."""

from __future__ import annotations

import threading

import pytest

from specdec.errors import ModelError
from specdec.live.shelf import Arrival, ModelShelf
from specdec.models.fetch.progress import COMPILING, LOADING
from specdec.runs.steps import Step
from tests.live.toys import wait_for


def test_two_who_ask_at_once_wait_for_one_load():
    let_go, loads = threading.Event(), []

    def load(name, backend, progress):
        loads.append(name)
        progress(3, 12, "fetching")
        let_go.wait(10)
        return object()

    shelf = ModelShelf(load)
    first, second = shelf.request("a", "portable"), shelf.request("a", "portable")
    wait_for(lambda: shelf.arrival("a", "portable") is not None)
    assert shelf.arrival("a", "portable") == Arrival(3, 12, "fetching")
    assert shelf.arrival("a", "portable").fraction == 0.25
    assert not shelf.holds("a", "portable")
    let_go.set()
    assert first.result(10) is second.result(10)
    assert loads == ["a"]
    assert shelf.holds("a", "portable")
    wait_for(lambda: shelf.arrival("a", "portable") is None)


def test_what_failed_is_tried_again():
    answers = [ModelError("The network is down; try again."), "weights"]

    def load(name, backend, progress):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shelf = ModelShelf(load)
    with pytest.raises(ModelError, match="network"):
        shelf.request("a", "portable").result(10)
    assert shelf.request("a", "portable").result(10) == "weights"


def test_the_model_used_longest_ago_makes_room():
    shelf = ModelShelf(lambda name, backend, progress: name, capacity=2)
    for name in ("a", "b", "a", "c"):
        shelf.request(name, "portable").result(10)
    assert [shelf.holds(name, "portable") for name in "abc"] == [True, False, True]


def test_an_arrival_knows_its_step():
    let_go, words = threading.Event(), ("downloading", LOADING, "Moving to the GPU", COMPILING)

    def load(name, backend, progress):
        for word in words:
            progress(0, None, word)
            let_go.wait(10)
            let_go.clear()

    shelf = ModelShelf(load)
    shelf.request("a", "portable")
    for word, step, has_news in zip(
        words, (Step.FETCH, Step.LOAD, Step.LOAD, Step.COMPILE), (1, 0, 1, 0), strict=True
    ):
        wait_for(lambda word=word: getattr(shelf.arrival("a", "portable"), "what", "") == word)
        arrival = shelf.arrival("a", "portable")
        assert (arrival.step, arrival.has_news) == (step, bool(has_news))
        let_go.set()


def test_an_unknown_size_has_no_fraction():
    assert Arrival(5, None, "compiling").fraction is None
