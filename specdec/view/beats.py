"""A run in beats: drafted tokens one by one, sent, the verdicts in order, the fall, the next token.

One beat is one thing to see. The engine's frames say what happened; here is only in which order it
is told, so that a round can be followed with the eye, forward and backward, and nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from specdec.records import Drafted, Prefilled, RoundResult, RunSummary, TokenRecord, TokenStatus
from specdec.runs.recorder import Frame
from specdec.view.facts import TextOf, visible


@dataclass(frozen=True, slots=True)
class Beat:
    """One thing to see.

    Attributes:
        words: what is seen, in a sentence.
        draft: the round's candidates as they stand now; None where the whole frame is shown.
        frame: the frame that is complete with this beat; None before its last one.
        has_fallen: whether what was rejected has left the line of the output.
        whole: the draft in full, which the frame of the picture has room for from the start.
    """

    words: str
    draft: Drafted | None = None
    frame: Frame | None = None
    has_fallen: bool = False
    whole: Drafted | None = None


class Score:
    """The beats of the frames so far; `extend` takes what has come since."""

    def __init__(self, text_of: TextOf) -> None:
        self.beats: list[Beat] = []
        self.round_ends: list[int] = [0]
        """How many beats have been when 0, 1, 2, … rounds are complete."""
        self._text_of = text_of
        self._num_frames = 0
        self._draft: Drafted | None = None

    def extend(self, frames: Sequence[Frame]) -> None:
        """Write down the beats of the frames that are new."""
        for frame in frames[self._num_frames :]:
            self.beats += self._beats_of(frame)
            if isinstance(frame.event, RoundResult):
                self.round_ends.append(len(self.beats))
        self._num_frames = len(frames)

    def _beats_of(self, frame: Frame) -> Iterator[Beat]:
        match frame.event:
            case Prefilled():
                yield Beat("The prompt has been read.", frame=frame)
            case Drafted():
                self._draft = frame.event
                yield from self._drafting(frame, frame.event)
            case RoundResult():
                yield from self._answering(frame, frame.event)
            case RunSummary():
                yield Beat("", frame=frame)

    def _drafting(self, frame: Frame, draft: Drafted) -> Iterator[Beat]:
        count = len(draft.candidates)
        for index, candidate in enumerate(draft.candidates):
            so_far = replace(draft, candidates=draft.candidates[: index + 1])
            words = f"The draft proposes {self._name(candidate)}, {index + 1} of {count}."
            yield Beat(words, so_far, whole=draft)
        who = f"All {count} go" if count > 1 else "It goes"
        yield Beat(f"{who} to the target, to be checked in one call.", frame=frame)

    def _answering(self, frame: Frame, result: RoundResult) -> Iterator[Beat]:
        draft = self._draft
        if draft is not None and draft.round == result.round and result.candidates:
            yield from self._verdicts(draft, result)
        yield Beat(self._final_words(result), frame=frame)

    def _verdicts(self, draft: Drafted, result: RoundResult) -> Iterator[Beat]:
        told = list(draft.candidates)
        order = sorted(range(len(told)), key=lambda i: (told[i].position, i))
        for index in order:
            answer = result.candidates[index]
            if answer.status in (TokenStatus.ACCEPTED, TokenStatus.REJECTED):
                told[index] = answer
                yield Beat(
                    f"{self._name(answer)} is {answer.status} by the target’s test.",
                    replace(draft, candidates=tuple(told)),
                    whole=draft,
                )
        if any(one.status is TokenStatus.REJECTED for one in result.candidates):
            yield Beat(
                "What was rejected falls, and what stood on it with it.",
                replace(draft, candidates=result.candidates),
                has_fallen=True,
                whole=draft,
            )

    def _final_words(self, result: RoundResult) -> str:
        if result.final is None:
            return "The round is over."
        token = self._name(result.final)
        if not result.candidates:
            return f"The target writes {token}: nothing was drafted."
        if result.final.status is TokenStatus.BONUS:
            return f"The whole draft passed, so the target adds {token} for free."
        return f"The target puts {token} in place of what it rejected."

    def _name(self, record: TokenRecord) -> str:
        return f"“{visible(self._text_of(record.token_id))}”"
