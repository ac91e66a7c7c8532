"""One whole run without a screen: load, baseline, generate, record.

Written once for everybody who has a run made: the page's thread, the command line, the benchmarks.
They follow the frames and may leave at any of them; the fields say how far it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from enum import StrEnum

from specdec.baseline import WIDTHS, Value, decode_plainly, measure_block
from specdec.drafters.base import Drafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.recall import Recall
from specdec.engine import RoundSettings, generate
from specdec.errors import SpecdecError
from specdec.metrics import Baseline, Block
from specdec.pair import (
    Load,
    Pair,
    check_prompt,
    load_model,
    make_drafter,
    make_pair,
    noting,
)
from specdec.records import Drafted, Event, FinishReason, LinkKind, RunSummary
from specdec.runs.recorder import Frame, RunRecorder, event_time_s
from specdec.runs.run import Run
from specdec.settings import RunConfig
from specdec.targets.server.faults import OnWait


class Phase(StrEnum):
    """What a run is doing; the first five are under way."""

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


class Performance:
    """A run from its settings to its record; `frames` makes it happen, in the caller's thread.

    `pair`, `prompt_ids`, `baseline` and `recorder` are there as soon as it has come to them. Other
    threads may look, and `change` what the next round runs with.
    """

    def __init__(
        self,
        config: RunConfig,
        prompt: str,
        *,
        load: Load = load_model,
        on_wait: OnWait | None = None,
        on_phase: Callable[[Phase], None] | None = None,
        with_baseline: bool = True,
        recall: Recall | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            config: what is asked for.
            prompt: as the user typed it.
            load: opens models; what it raises ends the run.
            on_wait: told while a failed call to a server waits for another attempt.
            on_phase: told of each phase that begins after the loading.
            with_baseline: whether plain decoding is timed for the speed-ups, before the run and
                after it: a machine is not the same a minute later. It never is behind a server:
                a call per token would eat its rate limits, and what it has to be compared with is
                its own streaming.
            recall: finds earlier answers to the prompt, for a draft that reads them.
        """
        self.config = config
        self.prompt = prompt
        self._phase = Phase.LOADING
        self.pair: Pair | None = None
        self.prompt_ids: tuple[int, ...] = ()
        self.baseline: Baseline | None = None
        self.had_company = False
        self.recorder: RunRecorder | None = None
        self.plain: RunRecorder | None = None
        self.error: str | None = None
        self._load = load
        self._on_wait = on_wait
        self._on_phase = on_phase
        self._recall = recall
        self._with_baseline = with_baseline and not config.is_remote
        self._lock = threading.Lock()
        self._settings: RoundSettings | None = None
        self._asked = config

    @property
    def phase(self) -> Phase:
        """Return what it is doing."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        if self._on_phase is not None:
            self._on_phase(phase)

    # -- what the next round runs with -----------------------------------------------------------

    @property
    def settings(self) -> RoundSettings | None:
        """Return what the next round runs with, None until the models are open."""
        return self._settings

    def change(self, asked: RunConfig) -> None:
        """Set K, policy, rule and sampler from the next round on, the first one included.

        The draft that `asked` names has to be opened first; see `draft_with`.
        """
        with self._lock:
            self._asked = asked
            if self._settings is not None and self.pair is not None:
                self._settings = replace(
                    self.pair.round_settings(asked), drafter=self._settings.drafter
                )

    def open_drafter(self, draft: str, tree: str = "") -> Drafter:
        """Open another draft, or the same in another shape, for the run's target.

        Raises:
            SpecdecError: it cannot be opened, or does not fit the target.
        """
        assert self.pair is not None
        place, load = self.config.place, noting(self._load, self.pair.digests)
        target = load(self.config.target, place)
        return make_drafter(draft, target, place, load, tree=tree, recall=self._recall)

    def draft_with(self, drafter: Drafter) -> None:
        """Change the drafting strategy from the next round on."""
        with self._lock:
            assert self._settings is not None
            self._settings = replace(self._settings, drafter=drafter)

    # -- the run ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the models and read the prompt's words.

        Raises:
            SpecdecError: the prompt is empty, or a model cannot be had or does not fit.
        """
        check_prompt(self.prompt)
        pair = make_pair(self.config, self._load, self._on_wait, self._recall)
        self.prompt_ids = tuple(pair.encode_prompt(self.prompt))
        with self._lock:
            self._settings = pair.round_settings(self._asked)
            self.pair = pair

    def frames(self) -> Generator[Frame, None, None]:
        """Make the run, between two blocks of plain decoding (their frames in `Phase.BASELINE`).

        May be closed at any yield: what was recorded by then is the run.

        Raises:
            SpecdecError: a model cannot be had, the baseline failed, or the prompt does not fit.
        """
        if self.pair is None:
            self.open()
        blocks: list[Block] = []
        with _going_on(self):
            try:
                if self._with_baseline:
                    blocks.append((yield from self._measure_block()))
                    self._keep_baseline(blocks)
                yield from self._generate()
                if blocks and self.phase is Phase.FINISHED:
                    yield from self._measure_after(blocks)
            finally:
                self._keep_baseline(blocks)

    def _measure_block(self, widths: Sequence[int] = ()) -> Generator[Frame, None, Block]:
        """Time plain decoding over the same link, sampling as the next round would."""
        pair = self.pair
        assert pair is not None
        self.phase = Phase.BASELINE
        sampler = self._settings_now().sampler
        measuring = measure_block(self.prompt_ids, pair.target, sampler, widths=widths)
        return (yield from _framed(measuring))

    def _measure_after(self, blocks: list[Block]) -> Generator[Frame, None, None]:
        """Time plain decoding once more, and what drafts add to its calls, where there were any.

        The run is finished, whatever becomes of that.
        """
        has_drafted = self.recorder is not None and any(r.candidates for r in self.recorder.rounds)
        try:
            with suppress(SpecdecError):
                blocks.append((yield from self._measure_block(WIDTHS if has_drafted else ())))
        finally:
            self.phase = Phase.FINISHED

    def _keep_baseline(self, blocks: Sequence[Block]) -> None:
        if blocks:
            self.baseline = Baseline.of_blocks(*blocks, had_company=self.had_company)
            if self.recorder is not None:
                self.recorder.add_baseline(self.baseline)

    def _generate(self) -> Generator[Frame, None, None]:
        pair = self.pair
        assert pair is not None
        self.phase = Phase.READING
        recorder = RunRecorder.start(self.config, self.prompt, self.prompt_ids, pair)
        if self.baseline is not None:
            recorder.add_baseline(self.baseline)
        self.recorder = recorder
        events = generate(
            self.prompt_ids,
            pair.target,
            self._settings_now,
            max_tokens=self.config.max_tokens,
            eos_token_ids=pair.tokenizer.eos_token_ids,
            seed=self.config.seed,
        )
        try:
            with closing(events):
                for event in events:
                    frame = recorder.add(event)
                    self._enter_phase_after(event)
                    yield frame
        except Exception as failure:
            self.error = str(failure) or type(failure).__name__
            raise

    def _settings_now(self) -> RoundSettings:
        assert self._settings is not None
        return self._settings

    def _enter_phase_after(self, event: Event) -> None:
        if isinstance(event, RunSummary):
            self.error = event.error
            failed = event.finish_reason is FinishReason.ERROR
            self.phase = Phase.FAILED if failed else Phase.FINISHED
        else:
            self.phase = Phase.VERIFYING if isinstance(event, Drafted) else Phase.DRAFTING

    def plain_frames(self) -> Generator[Frame, None, None]:
        """Have the target write by itself over the same link, recorded in `plain`."""
        pair = self.pair
        assert pair is not None
        config = replace(self.config, draft=NoDrafter.name, num_draft_tokens=0)
        alone = replace(pair, drafter=NoDrafter())
        self.plain = RunRecorder.start(config, self.prompt, self.prompt_ids, alone)
        events = decode_plainly(
            self.prompt_ids,
            pair.target,
            config.sampler,
            max_tokens=config.max_tokens,
            eos_token_ids=pair.tokenizer.eos_token_ids,
            seed=config.seed,
        )
        with _going_on(self), closing(events):
            for event in events:
                yield self.plain.add(event)

    @property
    def is_to_be_compared(self) -> bool:
        """Say whether the finished run is to be compared with plain decoding.

        It is at temperature 0, and its target is exact up to rounding only.
        """
        if self.pair is None or self.recorder is None or self.phase is not Phase.FINISHED:
            return False
        rounds = self.recorder.rounds
        exactness = self.pair.target.exactness_for(self.config.sampler)
        return exactness.kind == "rounded" and all(r.temperature == 0 for r in rounds)

    # -- what there is of it ---------------------------------------------------------------------

    @property
    def link_kind(self) -> LinkKind:
        """Return what is between the draft and the target, as far as is known."""
        if self.config.rtt_ms > 0:
            return LinkKind.EMULATED
        return LinkKind.NONE if self.recorder is None else self.recorder.link_kind

    def run(self) -> Run | None:
        """Return the run as it stands now, whole or partial; None if it has not begun."""
        return None if self.recorder is None else self.recorder.run(self.error)


_performing: list[Performance] = []
_performing_lock = threading.Lock()


@contextmanager
def _going_on(performance: Performance) -> Iterator[None]:
    """Tell this run, and any other that goes on in this program, that they have company."""
    with _performing_lock:
        _performing.append(performance)
        if len(_performing) > 1:
            for one in _performing:
                one.had_company = True
    try:
        yield
    finally:
        with _performing_lock:
            _performing.remove(performance)


def _framed(events: Generator[Event, None, Value]) -> Generator[Frame, None, Value]:
    """Yield events as frames without a text, and return the generator's value."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                value: Value = end.value
                return value
            yield Frame(event_time_s(event), event)
