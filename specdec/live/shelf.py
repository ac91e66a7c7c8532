"""Weights on a shelf: a model is loaded once for the whole server, whoever asks first.

Only weights stand here; what a run changes belongs to the run. Loading happens in a thread of its
own, so that whoever waits can leave, two tabs that ask for one model wait for one download, and
everybody can look at how far it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Protocol

from specdec.models.fetch.progress import COMPILING, CONNECTING, LOADING, Progress
from specdec.pair import LoadedModel, load_model
from specdec.runs.steps import Step


class LoadWithProgress(Protocol):
    """(name, place, progress) → weights."""

    def __call__(self, name: str, place: str, progress: Progress | None = ...) -> LoadedModel: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far a model is: `done` of `total` bytes (None where unknown), and what is going on.

    `step` is what that belongs to.
    """

    done: int
    total: int | None
    what: str
    step: Step = Step.FETCH

    @property
    def fraction(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def has_news(self) -> bool:
        """Say whether there is more to tell than which step it is at."""
        return self.what not in _STEPS


_STEPS = {CONNECTING: Step.CONNECT, LOADING: Step.LOAD, COMPILING: Step.COMPILE}
Key = tuple[str, str]
_POLL_S = 0.05


class ModelShelf:
    """The `capacity` models used last, by name and place; thread-safe."""

    def __init__(self, load: LoadWithProgress = load_model, capacity: int = 3) -> None:
        self._load = load
        self._capacity = capacity
        self._lock = threading.Lock()
        self._models: OrderedDict[Key, Future[LoadedModel]] = OrderedDict()
        self._arrivals: dict[Key, Arrival] = {}

    def request(self, name: str, place: str) -> Future[LoadedModel]:
        """Return the model, or the promise of it; a failed one is tried again."""
        key = (name, place)
        with self._lock:
            future = self._models.get(key)
            if future is None or (future.done() and future.exception()):
                future = self._models[key] = Future()
                threading.Thread(target=self._fetch, args=(key, future), daemon=True).start()
            self._models.move_to_end(key)
            while len(self._models) > self._capacity:
                self._models.popitem(last=False)
            return future

    def await_model(self, name: str, place: str, look_up: Callable[[], None]) -> LoadedModel:
        """Return the model when it is there.

        `look_up` is called now and then; what it raises ends the wait.
        """
        future = self.request(name, place)
        while True:
            look_up()
            try:
                return future.result(timeout=_POLL_S)
            except NotYet:
                continue

    def holds(self, name: str, place: str) -> bool:
        """Say whether the model is loaded already."""
        future = self._models.get((name, place))
        return future is not None and future.done() and not future.exception()

    def loaded(self, name: str, place: str) -> LoadedModel | None:
        """Return the model if it is loaded already."""
        future = self._models.get((name, place))
        return future.result() if future is not None and self.holds(name, place) else None

    def forget(self, name: str, place: str) -> None:
        """Take the model off, so that the next one who asks has it opened anew."""
        with self._lock:
            self._models.pop((name, place), None)

    def arrival(self, name: str, place: str) -> Arrival | None:
        """Return how far a model is that is on its way."""
        return self._arrivals.get((name, place))

    def _fetch(self, key: Key, future: Future[LoadedModel]) -> None:
        step = Step.FETCH

        def report(done: int, total: int | None, what: str) -> None:
            nonlocal step
            step = _STEPS.get(what, step)
            self._arrivals[key] = Arrival(done, total, what, step)

        try:
            future.set_result(self._load(*key, progress=report))
        except BaseException as failure:  # belongs to whoever asked
            future.set_exception(failure)
        finally:
            self._arrivals.pop(key, None)
