"""Makes a run out of the engine's events while they come; here token ids meet their texts.

The one recorder: page, command line, race and benchmarks all keep what they see with it, and a
saved run is played back (`specdec.runs.replay`) as the same frames.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from specdec.metrics import Baseline, Totals
from specdec.records import (
    FIXED_POLICY,
    Drafted,
    Event,
    FinishReason,
    LinkKind,
    Prefilled,
    RoundResult,
    RunSummary,
    TokenRecord,
)
from specdec.runs.machine import describe_environment
from specdec.runs.run import ModelInfo, Run, utc_now
from specdec.sampling import Sampler
from specdec.settings import RunConfig

if TYPE_CHECKING:
    from specdec.pair import Pair


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, the texts that became complete with it, and when it came.

    `time_s` is in seconds of the engine's own clock since the start of the run; it never falls
    from one frame of a run to the next.
    """

    time_s: float
    event: Event
    pieces: tuple[str, ...] = ()


def event_time_s(event: Event) -> float:
    """Return when an event came, on the engine's own clock, from the start of the run."""
    match event:
        case Prefilled():
            return event.prefill_s
        case Drafted():
            return event.started_s + event.draft_s
        case RoundResult():
            return event.started_s + event.wall_s
        case RunSummary():
            return event.wall_s


class TokenStream(Protocol):
    """Decode token after token; bytes of a half character wait."""

    def push(self, ids: Sequence[int]) -> list[str]: ...

    def rest(self) -> str: ...


class TokenTexts(Protocol):
    """The side of a tokenizer that a recorder needs."""

    def stream(self) -> TokenStream: ...

    def token_text(self, token_id: int) -> str: ...


class RunRecorder:
    """Collects the events of one run; one thread may add while others look.

    `frames` only grows, so that it can be read without a lock.
    """

    def __init__(self, blank: Run, pair: Pair) -> None:
        """Record onto `blank`, a run of `pair` without rounds; prefer `RunRecorder.start`."""
        self.frames: list[Frame] = []
        self._blank = blank
        self._pair = pair
        self._tokenizer: TokenTexts = pair.tokenizer
        self._stream = self._tokenizer.stream()
        self._lock = threading.Lock()
        self._totals = Totals()
        self._prefill_s = 0.0
        self._token_texts: dict[int, str] = {}
        self._summary: RunSummary | None = None

    @classmethod
    def start(
        cls,
        config: RunConfig,
        prompt: str,
        prompt_ids: Sequence[int],
        pair: Pair,
    ) -> RunRecorder:
        """Describe the run that is about to begin, now.

        Args:
            config: what is asked for.
            prompt: as the user typed it.
            prompt_ids: as the target will read it.
            pair: target, drafter and tokenizer.
        """
        target, draft = pair.target.name, pair.drafter.name
        blank = Run(
            config=config,
            prompt=prompt,
            prompt_ids=tuple(prompt_ids),
            target=ModelInfo(target, pair.digests.get(target)),
            draft=ModelInfo(draft, pair.digests.get(draft)),
            backend=pair.target.backend,
            exactness=str(pair.target.exactness_for(config.sampler)),
            link_is_emulated=pair.target.link_is_emulated,
            environment=dict(describe_environment()),
            started_at=utc_now(),
            rounds=(),
            pieces=(),
            token_texts={},
            summary=Totals().summary(num_prompt_tokens=len(prompt_ids)),
        )
        return cls(blank, pair)

    @property
    def is_finished(self) -> bool:
        """Say whether the engine's own summary has come."""
        return self._summary is not None

    @property
    def link_kind(self) -> LinkKind:
        """Return what is between the draft and the target, as far as this run has found out."""
        if self._blank.link_is_emulated:
            return LinkKind.EMULATED
        return LinkKind.MEASURED if self._totals.link_s > 0 else LinkKind.NONE

    @property
    def rounds(self) -> tuple[RoundResult, ...]:
        return tuple(f.event for f in list(self.frames) if isinstance(f.event, RoundResult))

    def add(self, event: Event) -> Frame:
        """Take in one event of the engine, and return it with its texts."""
        with self._lock:
            pieces: tuple[str, ...] = ()
            match event:
                case Prefilled():
                    self._prefill_s = event.prefill_s
                case Drafted():
                    self._learn_texts(event.candidates)
                case RoundResult():
                    self._learn_texts(event.candidates)
                    self._learn_texts([] if event.final is None else [event.final])
                    pieces = tuple(self._stream.push(event.emitted))
                    self._totals.add(event)
                case RunSummary():
                    self._summary = event
                    pieces = (self._stream.rest(),)
            before_s = self.frames[-1].time_s if self.frames else 0.0
            frame = Frame(max(before_s, event_time_s(event)), event, pieces)
            self.frames.append(frame)
            return frame

    def add_baseline(self, baseline: Baseline) -> None:
        """Take in the measurement of plain decoding."""
        with self._lock:
            self._blank = replace(self._blank, baseline=baseline)

    def run(self, error: str | None = None) -> Run:
        """Return the run as it stands now; stopped, or failed with `error`, if it has not ended."""
        with self._lock:
            rounds = self.rounds
            pieces = [piece for frame in self.frames for piece in frame.pieces]
            if self._summary is not None:  # what was left of a half character belongs to a token
                *pieces, rest = pieces
                pieces[-1:] = [piece + rest for piece in pieces[-1:]]
            return replace(
                self._as_it_began(rounds[0]) if rounds else self._blank,
                exactness=self._exactness(rounds),
                rounds=rounds,
                pieces=tuple(pieces),
                token_texts=dict(self._token_texts),
                summary=self._summary or self._unfinished(error),
            )

    def _as_it_began(self, first: RoundResult) -> Run:
        """Return the blank run with what its first round ran with.

        That is what was asked for: a setting may have been changed between the press of a button
        and that round.
        """
        blank, config = self._blank, self._blank.config
        if config is None:
            return blank
        config = replace(
            config,
            temperature=first.temperature,
            top_k=first.top_k,
            top_p=first.top_p,
            policy=first.policy,
            rule=first.rule,
            tree=first.tree,
        )
        if first.policy == FIXED_POLICY:
            config = replace(config, num_draft_tokens=first.num_draft_tokens)
        if first.drafter == blank.draft.name:
            return replace(blank, config=config)
        draft = ModelInfo(first.drafter, self._pair.digests.get(first.drafter))
        return replace(blank, config=replace(config, draft=first.drafter), draft=draft)

    def _exactness(self, rounds: Sequence[RoundResult]) -> str:
        """Say what the output is exact for under every sampler that a round ran with."""
        used = dict.fromkeys((r.temperature, r.top_k, r.top_p) for r in rounds)
        said = (str(self._pair.target.exactness_for(Sampler(*one))) for one in used)
        return ", then ".join(dict.fromkeys(said)) or self._blank.exactness

    def _unfinished(self, error: str | None) -> RunSummary:
        return self._totals.summary(
            num_prompt_tokens=len(self._blank.prompt_ids),
            prefill_s=self._prefill_s,
            finish_reason=FinishReason.ERROR if error else FinishReason.STOPPED,
            error=error,
        )

    def _learn_texts(self, records: Sequence[TokenRecord]) -> None:
        for record in records:
            for token_id in (record.token_id, *(top.token_id for top in record.top_tokens)):
                if token_id not in self._token_texts:
                    self._token_texts[token_id] = self._tokenizer.token_text(token_id)
