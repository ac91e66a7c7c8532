"""One run as a value: what was asked, on what, every round, every text, and the totals.

A `Run` knows neither where it is stored nor how it is drawn. A `RunRecorder` makes one out of the
engine's events while they come, and can hand out a complete `Run` at any moment: what was stopped
or failed half-way is a run like any other. Here token ids meet their texts; the engine below stays
with ids.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from specdec.errors import SettingsError
from specdec.metrics import Baseline, summarise
from specdec.records import (
    Drafted,
    Event,
    FinishReason,
    Prefilled,
    RoundResult,
    RunSummary,
    TokenRecord,
)
from specdec.runs.machine import describe_environment
from specdec.settings import RunConfig

if TYPE_CHECKING:
    from specdec.pair import Pair

MAX_TITLE_CHARS = 80


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as a run used it; `digest` identifies its weights, where it has any of its own."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """A round from which on something else was set than in the round before."""

    round: int
    num_draft_tokens: int
    temperature: float
    drafter: str


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that is kept of a run.

    Attributes:
        config: what was asked for; None for a summary that another program wrote.
        prompt: as the user typed it.
        prompt_ids: as the target read it, chat template included.
        target: what decided.
        draft: what drafted at the start; each round names its own drafter.
        backend: what the target ran on: "portable", "mlx", or the protocol of a server.
        exactness: what the output law is guaranteed to be, in words.
        link_is_emulated: whether `link_s` was waited for on purpose.
        environment: hardware and versions, by name.
        started_at: UTC, ISO 8601.
        rounds: empty for a summary that another program wrote.
        pieces: for each emitted token the text that became complete with it.
        token_texts: the display text of every token id in `rounds`.
        summary: the totals.
        baseline: plain decoding of the same target, where it was measured.
        title: given by the user; `heading` is never empty.
        note: the user's own words.
        tags: the user's own words.
    """

    config: RunConfig | None
    prompt: str
    prompt_ids: tuple[int, ...]
    target: ModelInfo
    draft: ModelInfo
    backend: str
    exactness: str
    link_is_emulated: bool
    environment: Mapping[str, str]
    started_at: str
    rounds: tuple[RoundResult, ...]
    pieces: tuple[str, ...]
    token_texts: Mapping[int, str]
    summary: RunSummary
    baseline: Baseline | None = None
    title: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_words(self.title, self.note, *self.tags)
        if not _is_utc(self.started_at):
            raise SettingsError(
                f"The start of a run must be a UTC time like 2026-01-31T12:00:00+00:00, "
                f"not {self.started_at!r}."
            )

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All emitted tokens, an end token included."""
        return tuple(token_id for result in self.rounds for token_id in result.emitted)

    @property
    def heading(self) -> str:
        """The title, or else the prompt's first line, cut to fit one line."""
        line = " ".join((self.title or self.prompt).split())
        return line if len(line) <= MAX_TITLE_CHARS else line[: MAX_TITLE_CHARS - 1] + "…"

    @property
    def is_summary_only(self) -> bool:
        """Say whether there are totals of which the rounds are not known."""
        return not self.rounds and self.summary.num_target_calls > 0

    @property
    def changes(self) -> tuple[SettingsChange, ...]:
        """The rounds before which K, temperature or drafter was changed while the run went on."""
        return tuple(
            SettingsChange(after.round, after.num_draft_tokens, after.temperature, after.drafter)
            for before, after in pairwise(self.rounds)
            if (before.num_draft_tokens, before.temperature, before.drafter)
            != (after.num_draft_tokens, after.temperature, after.drafter)
        )

    def token_text(self, token_id: int) -> str:
        """Return the text to show for one token of the run, nothing where a file did not say."""
        return self.token_texts.get(token_id, "")

    def round_pieces(self) -> tuple[tuple[str, ...], ...]:
        """Return `pieces` round by round."""
        pieces = iter(self.pieces)
        return tuple(tuple(next(pieces) for _ in result.emitted) for result in self.rounds)


def check_words(*words: str) -> None:
    """Refuse a title, note or tag that not every database could hold.

    Raises:
        SettingsError: one holds a NUL character.
    """
    if any("\0" in one for one in words):
        raise SettingsError("A title, note or tag holds a NUL character; remove it.")


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


class TokenStream(Protocol):
    """Decode token after token; bytes of a half character wait."""

    def push(self, ids: Sequence[int]) -> list[str]: ...

    def rest(self) -> str: ...


class TokenTexts(Protocol):
    """The side of a tokenizer that a recorder needs."""

    def stream(self) -> TokenStream: ...

    def token_text(self, token_id: int) -> str: ...


@dataclass
class _Progress:
    """What has happened so far; grows under the recorder's lock."""

    prefilled: Prefilled | None = None
    drafted: Drafted | None = None
    rounds: list[RoundResult] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    token_texts: dict[int, str] = field(default_factory=dict)
    summary: RunSummary | None = None
    baseline: Baseline | None = None


class RunRecorder:
    """Collects the events of one run; one thread may add while others look.

    `pending` is the draft that the target is looking at, None between rounds.
    """

    def __init__(self, blank: Run, tokenizer: TokenTexts) -> None:
        """Begin with `blank`, a run without rounds; prefer `RunRecorder.start`."""
        self._blank = blank
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._lock = threading.Lock()
        self._progress = _Progress()

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
            summary=summarise(
                [],
                num_prompt_tokens=len(prompt_ids),
                prefill_s=0.0,
                finish_reason=FinishReason.STOPPED,
            ),
        )
        return cls(blank, pair.tokenizer)

    @property
    def pending(self) -> Drafted | None:
        return self._progress.drafted

    @property
    def is_finished(self) -> bool:
        """Say whether the engine's own summary has come."""
        return self._progress.summary is not None

    def add(self, event: Event) -> None:
        """Take in one event of the engine."""
        with self._lock:
            progress = self._progress
            match event:
                case Prefilled():
                    progress.prefilled = event
                case Drafted():
                    progress.drafted = event
                    self._learn_texts(event.candidates)
                case RoundResult():
                    progress.drafted = None
                    self._learn_texts(event.candidates)
                    self._learn_texts([] if event.final is None else [event.final])
                    progress.pieces += self._stream.push(event.emitted)
                    progress.rounds.append(event)
                case RunSummary():
                    progress.drafted = None
                    progress.summary = event
                    if progress.pieces:  # what is left of a half character
                        progress.pieces[-1] += self._stream.rest()

    def add_baseline(self, baseline: Baseline) -> None:
        """Take in the measurement of plain decoding."""
        with self._lock:
            self._progress.baseline = baseline

    def run(self, error: str | None = None) -> Run:
        """Return the run as it stands now; stopped, or failed with `error`, if it has not ended."""
        with self._lock:
            progress = self._progress
            rounds = tuple(progress.rounds)
            summary = progress.summary or self._summarise(rounds, error)
            return replace(
                self._blank,
                rounds=rounds,
                pieces=tuple(progress.pieces),
                token_texts=dict(progress.token_texts),
                summary=summary,
                baseline=progress.baseline,
            )

    def _summarise(self, rounds: Sequence[RoundResult], error: str | None) -> RunSummary:
        prefilled = self._progress.prefilled
        return summarise(
            rounds,
            num_prompt_tokens=len(self._blank.prompt_ids),
            prefill_s=prefilled.prefill_s if prefilled else 0.0,
            finish_reason=FinishReason.ERROR if error else FinishReason.STOPPED,
            error=error,
        )

    def _learn_texts(self, records: Sequence[TokenRecord]) -> None:
        texts = self._progress.token_texts
        for record in records:
            for token_id in (record.token_id, *(top.token_id for top in record.top_tokens)):
                if token_id not in texts:
                    texts[token_id] = self._tokenizer.token_text(token_id)
