"""The pump: one thread that makes a run happen while the page is free to draw and to listen.

It follows a `Performance`, whose recorders only grow, so any number of script runs may read them
without a lock. Nothing here knows the page: it is stopped by an event, told of new settings through
`change`, and hands the finished run, whole or partial, to `save`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import closing

from specdec.drafters.recall import Recall
from specdec.errors import SpecdecError, unexpected
from specdec.live.handshake import PageHandshake
from specdec.live.shelf import Arrival, ModelShelf
from specdec.pair import LoadedModel
from specdec.perform import Performance, Phase
from specdec.records import Drafted, Prefilled, RoundResult, RunSummary
from specdec.runs.recorder import Frame
from specdec.runs.run import Run
from specdec.runs.steps import Step, Steps
from specdec.settings import RunConfig
from specdec.targets.server.faults import Waiting

log = logging.getLogger(__name__)

Save = Callable[[Run], None]


class _StopError(Exception):
    """Raised in the pump's own thread to leave it: somebody asked it to stop."""


class LiveRun:
    """One press of Generate: a performance in a thread of its own, and plain decoding for a race.

    `run` is there when the run itself is over; `error` says what went wrong, `notice` what should
    be known besides, `waiting` why a server is about to be asked again, `steps` what it does, and
    did, before its first token.
    """

    def __init__(
        self,
        config: RunConfig,
        prompt: str,
        *,
        shelf: ModelShelf,
        save: Save,
        race: bool = False,
        is_shown: bool = False,
        recall: Recall | None = None,
    ) -> None:
        """Prepare a run; `start` begins it.

        Args:
            config: what is asked for.
            prompt: as the user typed it.
            shelf: where the weights stand.
            save: takes the run when it is over, however it ended.
            race: whether plain decoding runs afterwards, by itself, for comparison.
            is_shown: whether a page shows it, which must stand before anything is measured.
            recall: finds earlier answers to the prompt, for a draft that reads them.
        """
        self.config = config
        self.race = race
        self.run: Run | None = None
        self.error: str | None = None
        self.notice: str | None = None
        self.waiting: str | None = None
        self.performance = Performance(
            config, prompt, load=self._load, on_wait=self._wait, on_phase=self._enter, recall=recall
        )
        self.steps = Steps()
        self._shelf = shelf
        self._save = save
        self._page = PageHandshake(is_shown=is_shown)
        self._stopped = threading.Event()
        self._has_written = threading.Event()
        self._waiting_for: str | None = None
        self._drafting = config.draft, config.tree
        self._thread = threading.Thread(target=self._work, name="specdec run", daemon=True)

    # -- what the page looks at ------------------------------------------------------------------

    @property
    def is_comparing(self) -> bool:
        """Say whether plain decoding is running, for a race or an audit."""
        return self.performance.plain is not None and self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def arrival(self) -> Arrival | None:
        """Return how far the weights are that the run waits for, if there is more than a step."""
        arrival = self._awaited()
        return arrival if arrival is not None and arrival.has_news else None

    # -- what the page asks for ------------------------------------------------------------------

    def start(self) -> LiveRun:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the run to end after the event it is at; returns at once."""
        self._stopped.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until everything is over, the plain decoding of a race included."""
        self._thread.join(timeout_s)

    def change(self, asked: RunConfig) -> None:
        """Set what may be changed in mid-run from the next round on: all that decides a round.

        A draft model that is not loaded yet is fetched beside the run, which goes on as it was
        until the model is there.
        """
        if self.performance.phase.is_over:
            return
        self.performance.change(asked)
        drafting = asked.draft, asked.tree
        if drafting != self._drafting:
            self._drafting = drafting
            if self.performance.pair is not None:
                self._fetch_draft()

    def decode_plainly(self) -> None:
        """Run plain decoding of the same target, now that the run is over, for comparison."""
        if self.run is None or self._thread.is_alive():
            return
        self._stopped.clear()
        self._thread = threading.Thread(
            target=self._compare, name="specdec plain decoding", daemon=True
        )
        self._thread.start()

    def page_asked(self, now_s: float) -> None:
        """Take note that the browser asks for a picture at `now_s` (monotonic)."""
        self._page.asked(now_s)

    def page_drawn(self, now_s: float) -> None:
        """Take note that the page was drawn at `now_s` (monotonic), while models load or later."""
        self._page.drawn(now_s)

    def progress_drawn(self) -> None:
        """Take note that the weights' progress stands where the tree will be."""
        self._page.taken_down()

    def await_first_round(self, timeout_s: float) -> None:
        """Wait until there is a first round to be seen, if that is next; `timeout_s` at most.

        A redraw that waits does not draw into the baseline, and shows the first tokens at once.
        """
        is_next = self._page.stands and self.performance.pair is not None
        if is_next and not self.performance.phase.is_over:
            self._has_written.wait(timeout_s)

    def await_call(self, timeout_s: float) -> None:
        """Wait until a draft leaves for a target across a link, `timeout_s` at most.

        While it travels, the models leave this machine to whoever draws. Where nothing is drafted,
        there is nothing to wait for.
        """
        settings = self.performance.settings
        is_across = self.config.rtt_ms > 0 or self.config.is_remote
        drafts = settings is not None and settings.num_draft_tokens > 0
        if is_across and drafts and self.performance.phase in (Phase.DRAFTING, Phase.VERIFYING):
            self._page.await_call(timeout_s)

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self.performance.open()
            if self._drafting != (self.config.draft, self.config.tree):
                self._fetch_draft()  # chosen while the weights were on their way
            self.steps.begin(Step.PAGE)
            self._page.await_page(self._leave_if_stopped)
            self._follow(self.performance.frames())
            self._note(self.performance.error)
        except _StopError:
            if self.performance.phase is not Phase.FINISHED:  # else it left the baseline's rest out
                self.performance.phase = Phase.STOPPED
        except SpecdecError as failure:
            self._fail(str(failure))
        except Exception as failure:
            log.exception("A run failed.")
            self._fail(
                f"{unexpected(failure)} The terminal it was started from shows where; the tokens "
                "so far are kept."
            )
        self._hand_over()
        races = self.race and self.performance.phase is Phase.FINISHED
        if races or self.performance.is_to_be_compared:
            self._compare()

    def _fail(self, error: str) -> None:
        self._note(error)
        self.performance.phase = Phase.FAILED

    def _note(self, error: str | None) -> None:
        self.error = error
        if error and self.config.is_remote:  # what the probe found may no longer hold
            self._shelf.forget(self.config.target, self.config.place)

    def _hand_over(self) -> None:
        """Keep what there is; the one place where a run leaves the page for the store."""
        self._has_written.set()  # or it never will
        run = self.performance.run()
        if run is None:
            return
        self.run = run
        try:
            self._save(run)
        except SpecdecError as failure:
            self.notice = f"This run could not be saved. {failure}"
        except Exception as failure:
            log.exception("A run could not be saved.")
            self.notice = f"This run could not be saved. {unexpected(failure)}"

    def _compare(self) -> None:
        """Run the target by itself over the same link, with nothing else going on."""
        try:
            self._follow(self.performance.plain_frames())
        except _StopError:
            self.notice = "Plain decoding was stopped; what it wrote is compared."
        except SpecdecError as failure:
            self.notice = f"Plain decoding failed. {failure}"
        except Exception as failure:
            log.exception("Plain decoding failed.")
            self.notice = f"Plain decoding failed. {unexpected(failure)}"

    def _follow(self, frames: Generator[Frame, None, None]) -> None:
        """Take every frame, and close the generator whatever happens."""
        with closing(frames):
            for frame in frames:
                self.waiting = None
                if isinstance(frame.event, Prefilled) and self.performance.phase is Phase.BASELINE:
                    self.steps.begin(Step.BASELINE)
                if isinstance(frame.event, Drafted):
                    self._page.call_leaves()
                if isinstance(frame.event, RoundResult) and self.performance.recorder is not None:
                    self._has_written.set()  # a round of the run itself, not of its baseline
                if not isinstance(frame.event, RunSummary):
                    self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise _StopError

    def _load(self, name: str, backend: str) -> LoadedModel:
        self._waiting_for = name
        try:
            return self._shelf.await_model(name, backend, self._look_up)
        finally:
            self._waiting_for = None

    def _awaited(self) -> Arrival | None:
        name = self._waiting_for
        return None if name is None else self._shelf.arrival(name, self.config.place)

    def _look_up(self) -> None:
        """Leave the wait for a model if somebody asked for it; else note which step that is at."""
        self._leave_if_stopped()
        arrival = self._awaited()
        if arrival is not None and self.performance.pair is None:  # later it is another draft's
            self.steps.begin(arrival.step)

    def _enter(self, phase: Phase) -> None:
        """Note the step that a phase begins with: plain decoding reads the prompt first, too."""
        if phase in (Phase.BASELINE, Phase.READING):
            self.steps.begin(Step.READ)
        else:
            self.steps.end()

    def _wait(self, waiting: Waiting) -> None:
        """Show that a server is asked again, and when; a stop ends the wait."""
        self.waiting = str(waiting)
        self._leave_if_stopped()

    def _fetch_draft(self) -> None:
        """Open the draft that is wanted now in a thread of its own."""
        threading.Thread(target=self._change_draft, args=self._drafting, daemon=True).start()

    def _change_draft(self, draft: str, tree: str) -> None:
        try:
            drafter = self.performance.open_drafter(draft, tree)
        except SpecdecError as failure:
            self.notice = f"The draft stays as it was. {failure}"
        except _StopError:
            return
        except Exception as failure:
            log.exception("A draft could not be opened.")
            self.notice = f"The draft stays as it was. {unexpected(failure)}"
        else:
            if (draft, tree) == self._drafting:
                self.performance.draft_with(drafter)
