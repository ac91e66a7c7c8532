"""One run as a value: what was asked, on what, every round, every text, and the totals.

A `Run` knows neither where it is stored nor how it is drawn, and what was stopped or failed
half-way is a run like any other. `specdec.runs.recorder` makes one out of the engine's events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from specdec.errors import SettingsError
from specdec.metrics import Baseline
from specdec.records import LinkKind, RoundResult, RoundSetting, RunSummary
from specdec.settings import RunConfig

MAX_TITLE_CHARS = 80


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as a run used it; `digest` identifies its weights, where it has any of its own."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """A round from which on something else was set than in the round before: `now`."""

    round: int
    now: RoundSetting


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
    def drafting(self) -> str:
        """What drafted, by name, and the shape that it was given."""
        tree = "" if self.config is None else self.config.tree
        return f"{self.draft.name.removesuffix(f' {tree}')} {tree}".rstrip()

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
        """The rounds before which a setting was changed while the run went on."""
        return tuple(
            SettingsChange(after.round, after.settings)
            for before, after in pairwise(self.rounds)
            if before.settings != after.settings
        )

    @property
    def link_kind(self) -> LinkKind:
        if self.link_is_emulated:
            return LinkKind.EMULATED
        return LinkKind.MEASURED if self.summary.link_s > 0 else LinkKind.NONE

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
