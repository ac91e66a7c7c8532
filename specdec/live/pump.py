"""The pump: one thread that makes a run happen while the page is free to draw and to listen.

It iterates the engine and appends what comes to lists that only grow, so any number of script
runs may read them without a lock. Nothing here knows the page: it is stopped by an event, told of
new settings through `change`, and hands the finished run, whole or partial, to `save`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, MutableMapping
from concurrent.futures import TimeoutError as NotYet
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from typing import Any

from specdec.drafters.none import NoDrafter
from specdec.engine import BASELINE_TOKENS, RoundSettings, generate
from specdec.errors import SpecdecError, TargetError
from specdec.live.shelf import Arrival, ModelShelf
from specdec.metrics import Baseline
from specdec.pair import LoadedModel, Pair, make_drafter, make_pair
from specdec.records import Drafted, Event, FinishReason, RoundResult, RunSummary
from specdec.runs.recording import Recording
from specdec.runs.run import Run, RunRecorder
from specdec.sampling import Sampler
from specdec.settings import RunConfig
from specdec.targets.server.endpoints import MARK
from specdec.targets.server.faults import Waiting

log = logging.getLogger(__name__)

Save = Callable[[Run], None]
BaselineKey = tuple[str, str, float, float]
Baselines = MutableMapping[BaselineKey, Baseline]
"""What was measured in this session, by target, backend, round trip and jitter."""

_POLL_S = 0.05
PAGE_SETTLES_S = 1.0
"""How long a browser is busy with tree and charts that are new to it."""
PAGE_WAIT_S = 3.0
"""After which a run begins all the same: nobody may be looking at its tab."""


class Phase(StrEnum):
    """What a run is doing; the first four are under way."""

    LOADING = "loading"
    BASELINE = "baseline"
    READING = "reading"
    DRAFTING = "drafting"
    VERIFYING = "verifying"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in (Phase.FINISHED, Phase.STOPPED, Phase.FAILED)


class _StopError(Exception):
    """Raised in the pump's own thread to leave it: somebody asked it to stop."""


class LiveRun:
    """One press of Generate: loading, the baseline, the run, and plain decoding for a race.

    `recording` and `plain` grow while it goes on; `run` is there when the run itself is over;
    `error` says what went wrong, `notice` what should be known besides, `waiting` why a server is
    about to be asked again.
    """

    def __init__(
        self,
        config: RunConfig,
        prompt: str,
        *,
        shelf: ModelShelf,
        baselines: Baselines,
        save: Save,
        race: bool = False,
        is_shown: bool = False,
    ) -> None:
        """Prepare a run; `start` begins it.

        Args:
            config: what is asked for.
            prompt: as the user typed it.
            shelf: where the weights stand.
            baselines: measured in this session; read, and added to.
            save: takes the run when it is over, however it ended.
            race: whether plain decoding runs afterwards, by itself, for comparison.
            is_shown: whether a page shows it, which must stand before anything is measured.
        """
        self.config = config
        self.prompt = prompt
        self.race = race
        self.pair: Pair | None = None
        self.baseline: Baseline | None = None
        self.baseline_is_new = False
        self.recording: Recording | None = None
        self.plain: Recording | None = None
        self.run: Run | None = None
        self.error: str | None = None
        self.notice: str | None = None
        self.waiting: str | None = None
        self._shelf = shelf
        self._baselines = baselines
        self._save = save
        self._stopped = threading.Event()
        self._page_stands = threading.Event()
        self._page_seen_at_s: float | None = None
        if not is_shown:
            self._page_stands.set()
        self._is_across = config.rtt_ms > 0 or config.target.startswith(MARK)
        self._call_began = threading.Condition()
        self._phase = Phase.LOADING
        self._waiting_for: str | None = None
        self._settings: RoundSettings | None = None
        self._change_lock = threading.Lock()
        self._draft = config.draft
        self._thread = threading.Thread(target=self._work, name="specdec run", daemon=True)

    def start(self) -> LiveRun:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the run to end after the event it is at; returns at once."""
        self._stopped.set()

    def page_drawn(self, now_s: float) -> None:
        """Take note that the page was drawn at `now_s` (monotonic), because the browser asked.

        The first picture with a tree is work for the browser, on the cores that the models need; a
        picture asked for some time later says that it is done. While weights arrive, their progress
        stands where the tree will be.
        """
        if self.pair is None:
            return
        if self._page_seen_at_s is None:
            self._page_seen_at_s = now_s
        elif now_s - self._page_seen_at_s >= PAGE_SETTLES_S:
            self._page_stands.set()

    def await_call(self, timeout_s: float) -> None:
        """Wait until a draft leaves for a target across a link, `timeout_s` at most.

        While it travels, the models leave this machine to whoever draws. Where nothing is drafted,
        there is nothing to wait for.
        """
        drafts = self._settings is not None and self._settings.num_draft_tokens > 0
        if self._is_across and drafts and self._phase in (Phase.DRAFTING, Phase.VERIFYING):
            with self._call_began:
                self._call_began.wait(timeout_s)

    def decode_plainly(self) -> None:
        """Run plain decoding of the same target, now that the run is over, for comparison."""
        if self.run is None or self._thread.is_alive():
            return
        self._stopped.clear()
        self._thread = threading.Thread(
            target=self._compare, name="specdec plain decoding", daemon=True
        )
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until everything is over, the plain decoding of a race included."""
        self._thread.join(timeout_s)

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def is_comparing(self) -> bool:
        """Say whether plain decoding is running, for a race or an audit."""
        return self.plain is not None and self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def arrival(self) -> Arrival | None:
        """Return how far the weights are that the run waits for."""
        name = self._waiting_for
        return None if name is None else self._shelf.arrival(name, self.config.backend)

    def change(self, num_draft_tokens: int, sampler: Sampler, draft: str) -> None:
        """Set K, sampler and drafting strategy from the next round on.

        A draft model that is not loaded yet is fetched beside the run, which goes on as it was
        until the model is there.
        """
        if self._settings is None or self._phase.is_over:
            return
        self._replace(num_draft_tokens=num_draft_tokens, sampler=sampler)
        if draft != self._draft:
            self._draft = draft
            threading.Thread(target=self._change_draft, args=(draft,), daemon=True).start()

    def _change_draft(self, draft: str) -> None:
        try:
            loaded = self._load(self.config.target, self.config.backend)
            drafter = make_drafter(draft, loaded, self.config.backend, self._load)
        except SpecdecError as failure:
            self.notice = f"The draft stays as it was. {failure}"
        except _StopError:
            return
        else:
            if draft == self._draft:
                self._replace(drafter=drafter)

    def _replace(self, **values: Any) -> None:
        with self._change_lock:
            assert self._settings is not None
            self._settings = replace(self._settings, **values)

    def _work(self) -> None:
        try:
            self._prepare()
            self._await_page()
            self._measure_baseline()
            self._speculate()
        except _StopError:
            self._phase = Phase.STOPPED
        except SpecdecError as failure:
            self._fail(str(failure))
        except Exception as failure:
            log.exception("A run failed.")
            self._fail(
                f"Something went wrong inside SpeculatoViz ({type(failure).__name__}: {failure}). "
                "The terminal it was started from shows where; the tokens so far are kept."
            )
        if self.race and self._phase is Phase.FINISHED:
            self._compare()

    def _fail(self, error: str) -> None:
        self._note(error)
        self._phase = Phase.FAILED

    def _note(self, error: str) -> None:
        self.error = error
        if self.config.target.startswith(MARK):  # what the probe found may no longer hold
            self._shelf.forget(self.config.target, self.config.backend)

    def _load(self, name: str, backend: str) -> LoadedModel:
        future = self._shelf.request(name, backend)
        self._waiting_for = name
        try:
            while True:
                self._leave_if_stopped()
                try:
                    return future.result(timeout=_POLL_S)
                except NotYet:
                    continue
        finally:
            self._waiting_for = None

    def _prepare(self) -> None:
        self.pair = pair = make_pair(self.config, self._load, self._wait)
        self._prompt_ids = pair.encode_prompt(self.prompt)
        self._settings = pair.round_settings(self.config)

    def _await_page(self) -> None:
        """Let the browser finish building the page, whose work would be in the figures."""
        end_s = time.monotonic() + PAGE_WAIT_S
        while not self._page_stands.wait(_POLL_S) and time.monotonic() < end_s:
            self._leave_if_stopped()

    def _wait(self, waiting: Waiting) -> None:
        """Show that a server is asked again, and when; a stop ends the wait."""
        self.waiting = str(waiting)
        self._leave_if_stopped()

    def _measure_baseline(self) -> None:
        """Time plain decoding over the same link, unless this session has done so before.

        Not behind a server: a call per token would eat its rate limits, and what it has to be
        compared with is its own streaming, which the page measures when asked.
        """
        assert self.pair is not None
        config = self.config
        if config.target.startswith(MARK):
            return
        key = (config.target, self.pair.target.backend, config.rtt_ms, config.jitter_ms)
        if key not in self._baselines:
            self._phase = Phase.BASELINE
            rounds: list[RoundResult] = []

            def take(event: Event) -> None:
                if isinstance(event, RoundResult):
                    rounds.append(event)
                elif isinstance(event, RunSummary) and event.error:
                    raise TargetError(event.error)

            self._follow(self._plain_events(BASELINE_TOKENS + 1, ends=False), take)
            # The first call is left out: it warms caches up.
            self._baselines[key] = Baseline.from_rounds(rounds[1:] or rounds)
            self.baseline_is_new = True
        self.baseline = self._baselines[key]

    def _speculate(self) -> None:
        pair, settings = self.pair, self._settings
        assert pair is not None
        assert settings is not None
        self._phase = Phase.READING
        recorder = RunRecorder.start(self.config, self.prompt, self._prompt_ids, pair)
        if self.baseline is not None:
            recorder.add_baseline(self.baseline)
        self.recording = recording = Recording(pair.tokenizer.stream())

        def take(event: Event) -> None:
            recorder.add(event)
            recording.add(event)
            if isinstance(event, RunSummary):
                if event.error:
                    self._note(event.error)
            elif isinstance(event, Drafted):
                self._phase = Phase.VERIFYING
                with self._call_began:
                    self._call_began.notify_all()
            else:
                self._phase = Phase.DRAFTING

        def settings_now() -> RoundSettings:
            assert self._settings is not None
            return self._settings

        events = generate(
            self._prompt_ids,
            pair.target,
            settings_now,
            max_tokens=self.config.max_tokens,
            eos_token_ids=pair.tokenizer.eos_token_ids,
            seed=self.config.seed,
        )
        error = None
        try:
            self._follow(events, take)
        except _StopError:
            raise
        except Exception as failure:
            error = str(failure)
            raise
        finally:
            self.run = recorder.run(error)
            # The one place where a run leaves the page for the store.
            self._hand_over(self.run)
        failed = self.run.summary.finish_reason is FinishReason.ERROR
        self._phase = Phase.FAILED if failed else Phase.FINISHED

    def _hand_over(self, run: Run) -> None:
        try:
            self._save(run)
        except SpecdecError as failure:
            self.notice = f"This run could not be saved. {failure}"

    def _compare(self) -> None:
        """Run the target by itself over the same link, with nothing else going on."""
        assert self.pair is not None
        self.plain = Recording(self.pair.tokenizer.stream())
        try:
            self._follow(self._plain_events(self.config.max_tokens, ends=True), self.plain.add)
        except _StopError:
            self.notice = "Plain decoding was stopped; what it wrote is compared."
        except SpecdecError as failure:
            self.notice = f"Plain decoding failed. {failure}"

    def _plain_events(self, max_tokens: int, *, ends: bool) -> Generator[Event, None, None]:
        assert self.pair is not None
        return generate(
            self._prompt_ids,
            self.pair.target,
            RoundSettings(NoDrafter(), 0, self.config.sampler),
            max_tokens=max_tokens,
            eos_token_ids=self.pair.tokenizer.eos_token_ids if ends else (),
            seed=self.config.seed,
        )

    def _follow(self, events: Generator[Event, None, None], take: Callable[[Event], None]) -> None:
        """Take every event, and close the generator whatever happens."""
        with closing(events):
            for event in events:
                self.waiting = None
                take(event)
                if not isinstance(event, RunSummary):
                    self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise _StopError
