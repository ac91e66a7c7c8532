"""The round loop: draft, verify, emit, and yield what happened.

The generator knows token ids only, draws from one seeded random generator, and can be left at any
yield: closing it releases every cache. K = 0 is plain decoding, the same loop with empty drafts,
and so is the baseline that the speed-ups are measured against. The clock stands still while the
consumer holds a yielded event, so drawing on a screen is in no measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import numpy as np

from specdec.acceptance import Draft, Verdict, verify
from specdec.drafters.base import Drafter, DrafterRun
from specdec.drafters.none import NoDrafter
from specdec.errors import SettingsError, SpecdecError, TargetError
from specdec.metrics import Baseline, summarise
from specdec.observe import final_record, pending_records, verified_records
from specdec.records import Drafted, Event, FinishReason, Prefilled, RoundResult, RunSummary
from specdec.sampling import Distribution, Sampler
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from specdec.targets.base import Scores, Target

Clock = Callable[[], float]
BASELINE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """What may change from one round to the next."""

    drafter: Drafter
    num_draft_tokens: int
    sampler: Sampler

    def __post_init__(self) -> None:
        if not 0 <= self.num_draft_tokens <= MAX_NUM_DRAFT_TOKENS:
            raise SettingsError(
                f"The number of drafted tokens K must lie between 0 and {MAX_NUM_DRAFT_TOKENS}, "
                f"not {self.num_draft_tokens}."
            )


class Stopwatch:
    """Seconds of the engine's own time; it stands still while paused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hidden_s = clock()

    def now(self) -> float:
        return self._clock() - self._hidden_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        paused_at = self._clock()
        yield
        self._hidden_s += self._clock() - paused_at


def generate(
    prompt: Sequence[int],
    target: Target,
    settings: RoundSettings | Callable[[], RoundSettings],
    *,
    max_tokens: int,
    eos_token_ids: Collection[int] = (),
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Generator[Event, None, None]:
    """Write up to `max_tokens` tokens after `prompt`, one verified draft per round.

    Args:
        prompt: token ids; read once by the target and once by each drafter.
        target: decides; the output follows its distribution, whatever the drafter does.
        settings: fixed, or a function asked at the start of each round.
        max_tokens: never exceeded: the last drafts are cut to what is still wanted.
        eos_token_ids: the run ends with the first of them.
        seed: of the run's one random generator.
        clock: seconds, monotonic.

    Yields:
        `Prefilled`; then per round `Drafted` (only if something was drafted) and `RoundResult`;
        at the end one `RunSummary`. A failure of the target or drafter after the first round
        has begun ends the run with a summary that says so; the rounds before it stand.

    Raises:
        SettingsError: the prompt is empty or does not fit into the target's context, or no token
            is wanted.
    """
    _check_prompt(prompt, target)
    if max_tokens < 1:
        raise SettingsError(f"The token limit must be 1 or more, not {max_tokens}.")
    budget = min(max_tokens, target.context_length - len(prompt))
    ask = settings if callable(settings) else lambda: settings
    rng = np.random.default_rng(seed)
    watch = Stopwatch(clock)
    context = list(prompt)
    rounds: list[RoundResult] = []

    with ExitStack() as stack:
        drafter_runs: dict[Drafter, DrafterRun] = {}

        def run_of(drafter: Drafter) -> DrafterRun:
            if drafter not in drafter_runs:
                drafter_runs[drafter] = stack.enter_context(closing(drafter.start(context)))
            return drafter_runs[drafter]

        target_run = stack.enter_context(closing(target.start(prompt)))
        run_of(ask().drafter)
        prefill_s = watch.now()
        with watch.paused():
            yield Prefilled(len(prompt), prefill_s)

        finish: FinishReason | None = None
        error = None
        while finish is None:
            now = ask()
            started_s = watch.now()
            position = len(context) - len(prompt)
            try:
                depth = min(now.num_draft_tokens, budget - position - 1)
                draft = run_of(now.drafter).propose(context, depth, now.sampler, rng)
                draft_s = watch.now() - started_s - draft.sample_s
                pending = pending_records(draft, position)
                if pending:
                    with watch.paused():
                        yield Drafted(len(rounds), pending, started_s, draft_s)
                asked_s = watch.now()
                scores = target_run.score(context, draft)
                answered_s = watch.now()
                rows = _distributions(scores, now.sampler)
            except SpecdecError as failure:
                finish, error = FinishReason.ERROR, str(failure)
                break
            verdict = verify(draft, [None if row is None else row.probs for row in rows], rng)
            emitted, finish = _emit(draft, verdict, eos_token_ids, budget - position)
            context += emitted
            candidates = verified_records(pending, draft, rows, verdict)
            final = final_record(position, draft, rows, verdict)
            ended_s = watch.now()
            result = RoundResult(
                round=len(rounds),
                position=position,
                candidates=candidates,
                final=final,
                emitted=emitted,
                num_draft_tokens=now.num_draft_tokens,
                temperature=now.sampler.temperature,
                drafter=now.drafter.name,
                started_s=started_s,
                draft_s=draft_s,
                verify_s=answered_s - asked_s - scores.retry_s,
                link_s=scores.link_s,
                retry_s=scores.retry_s,
                sample_s=draft.sample_s + ended_s - answered_s,
                wall_s=ended_s - started_s,
            )
            rounds.append(result)
            with watch.paused():
                yield result

        yield summarise(
            rounds,
            num_prompt_tokens=len(prompt),
            prefill_s=prefill_s,
            finish_reason=finish,
            error=error,
        )


def _distributions(scores: Scores, sampler: Sampler) -> list[Distribution | None]:
    """Apply the sampler to every row the target gave."""
    rows = [
        None if row is None else Distribution.from_logits(row, sampler) for row in scores.logits
    ]
    if rows[0] is None:
        raise TargetError("The target did not score the position after the context.")
    return rows


def _emit(
    draft: Draft, verdict: Verdict, eos_token_ids: Collection[int], num_left: int
) -> tuple[tuple[int, ...], FinishReason | None]:
    """Return the tokens a verdict adds to the output, cut after an end token, and if it ends."""
    tokens = [draft.token_ids[node] for node in verdict.path]
    if verdict.final_token is not None:
        tokens.append(verdict.final_token)
    for index, token_id in enumerate(tokens):
        if token_id in eos_token_ids:
            return tuple(tokens[: index + 1]), FinishReason.STOP
    return tuple(tokens), FinishReason.LENGTH if len(tokens) >= num_left else None


def measure_baseline(
    prompt: Sequence[int],
    target: Target,
    sampler: Sampler,
    *,
    num_tokens: int = BASELINE_TOKENS,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Baseline:
    """Time plain decoding of `target`: `num_tokens` calls of one token, the first one dropped.

    The same loop with nothing to draft; end tokens do not end it, and the first call is left out
    because it warms caches up.

    Raises:
        TargetError: the target failed.
    """
    plain = RoundSettings(NoDrafter(), 0, sampler)
    events = list(
        generate(prompt, target, plain, max_tokens=num_tokens + 1, seed=seed, clock=clock)
    )
    summary = events[-1]
    assert isinstance(summary, RunSummary)
    if summary.error:
        raise TargetError(summary.error)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    return Baseline.from_rounds(rounds[1:] or rounds)


def _check_prompt(prompt: Sequence[int], target: Target) -> None:
    if not prompt:
        raise SettingsError("The prompt is empty; write something for the model to answer.")
    if len(prompt) >= target.context_length:
        raise SettingsError(
            f"The prompt is {len(prompt)} tokens long and leaves no room in the target's context "
            f"of {target.context_length}; shorten it."
        )
