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
from dataclasses import dataclass, field, replace

import numpy as np

from specdec.acceptance import Draft, Verdict, verify
from specdec.block import Rule, name_of
from specdec.drafters.base import Drafter, DrafterRun
from specdec.errors import SettingsError, SpecdecError, TargetError
from specdec.metrics import Totals
from specdec.observe import final_record, pending_records, verified_records
from specdec.policies.base import Budget, Policy, PolicyRun
from specdec.policies.costs import Costs
from specdec.policies.fixed import FixedPolicy
from specdec.records import Drafted, Event, FinishReason, Prefilled, RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from specdec.targets.base import LOGITS_ONLY, HiddenStates, Scores, Target, TargetRun

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """What may change from one round to the next; `policy` makes K out of `num_draft_tokens`.

    `rule` decides what the target takes of a draft: one of `specdec.block.RULES`.
    """

    drafter: Drafter
    num_draft_tokens: int
    sampler: Sampler
    policy: Policy = field(default_factory=FixedPolicy)
    rule: Rule = verify

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
        SettingsError: the prompt is empty or does not fit into the target's context, no token is
            wanted, or the drafter needs of the target what it cannot give.
    """
    _check_prompt(prompt, target)
    if max_tokens < 1:
        raise SettingsError(f"The token limit must be 1 or more, not {max_tokens}.")
    budget = min(max_tokens, target.context_length - len(prompt))
    ask = settings if callable(settings) else lambda: settings
    with closing(_Loop(prompt, target, budget, eos_token_ids, seed, clock)) as loop:
        prefill_s = loop.read_prompt(ask())
        with loop.watch.paused():
            yield Prefilled(len(prompt), prefill_s)
        error = None
        while loop.finish is None:
            try:
                result = yield from loop.round(ask())
            except SpecdecError as failure:
                loop.finish, error = FinishReason.ERROR, str(failure)
                break
            with loop.watch.paused():
                yield result
        yield loop.totals.summary(
            num_prompt_tokens=len(prompt),
            prefill_s=prefill_s,
            finish_reason=loop.finish,
            error=error,
        )


class _Loop:
    """What one run has read, written and spent so far, and the state of those who take part.

    Drafters are kept by name and shape, policies by name, so that one who is chosen again goes on
    where it was.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        target: Target,
        budget: int,
        eos_token_ids: Collection[int],
        seed: int,
        clock: Clock,
    ) -> None:
        self.watch = Stopwatch(clock)
        self.totals = Totals()
        self.finish: FinishReason | None = None
        self._prompt = prompt
        self._context = list(prompt)
        self._target = target
        self._budget = budget
        self._eos_token_ids = eos_token_ids
        self._rng = np.random.default_rng(seed)
        self._rounds: list[RoundResult] = []
        self._open = ExitStack()
        self._target_run: TargetRun | None = None
        self._wanted = LOGITS_ONLY
        self._hidden = HiddenStates(None)
        self._drafter_runs: dict[tuple[str, str], DrafterRun] = {}
        self._policy_runs: dict[str, PolicyRun] = {}
        self._costs = Costs()

    def close(self) -> None:
        """Release every cache."""
        self._open.close()

    def read_prompt(self, settings: RoundSettings) -> float:
        """Let target and drafter read the prompt; return the seconds it took."""
        self._runs_for(settings.drafter)
        return self.watch.now()

    def _runs_for(self, drafter: Drafter) -> tuple[TargetRun, DrafterRun]:
        """Return the target's run and the drafter's, beginning what has not begun yet.

        A drafter that is chosen in mid-run and needs more of the target than the others did has
        the target read the context anew.
        """
        target_run = self._target_run
        if target_run is None or not self._wanted.covers(drafter.wants):
            refusal = self._target.cannot_give(drafter.wants)
            if refusal is not None:
                raise SettingsError(refusal)
            if target_run is not None:
                target_run.close()
            target_run = self._target.start(self._context, drafter.wants)
            self._target_run = self._open.enter_context(closing(target_run))
            self._wanted, self._hidden = drafter.wants, HiddenStates(target_run.read_hidden)
        known = drafter.name, drafter.tree
        if known not in self._drafter_runs:
            drafter_run = drafter.start(self._prompt)
            self._drafter_runs[known] = self._open.enter_context(closing(drafter_run))
        return target_run, self._drafter_runs[known]

    def _budget_of(self, settings: RoundSettings) -> Budget:
        policy = settings.policy
        if policy.name not in self._policy_runs:
            self._policy_runs[policy.name] = policy.start()
        decided = self._policy_runs[policy.name].budget(self._rounds, settings.num_draft_tokens)
        return replace(decided, costs=self._costs if self._rounds else None)

    def round(self, settings: RoundSettings) -> Generator[Event, None, RoundResult]:
        """Draft, verify and emit once; yields what is drafted and returns what came of it."""
        watch, context, sampler = self.watch, self._context, settings.sampler
        number, position = len(self._rounds), len(context) - len(self._prompt)
        started_s = watch.now()
        target_run, drafter_run = self._runs_for(settings.drafter)
        allowed = self._budget_of(settings)
        left = allowed.cut(self._budget - position - 1)
        hidden = self._hidden.rows if settings.drafter.wants else None
        draft = drafter_run.propose(context, left, sampler, self._rng, hidden)
        draft_s = watch.now() - started_s - draft.sample_s
        pending = pending_records(draft, position)
        if pending:
            with watch.paused():
                yield Drafted(number, pending, started_s, draft_s)
        asked_s = watch.now()
        scores = target_run.score(context, draft)
        answered_s = watch.now()
        rows = _distributions(scores, sampler)
        target_probs = [None if row is None else row.probs for row in rows]
        verdict = settings.rule(draft, target_probs, self._rng)
        emitted, self.finish = _emit(draft, verdict, self._eos_token_ids, self._budget - position)
        context += emitted
        if scores.hidden is not None:
            self._hidden.append(scores.hidden[[0, *(node + 1 for node in verdict.path)]])
        drafter_run.observe(draft, rows, verdict)
        candidates = verified_records(pending, draft, rows, verdict)
        final = final_record(position, draft, rows, verdict)
        ended_s = watch.now()
        result = RoundResult(
            round=number,
            position=position,
            candidates=candidates,
            final=final,
            emitted=emitted,
            num_draft_tokens=allowed.depth,
            temperature=sampler.temperature,
            drafter=settings.drafter.name,
            started_s=started_s,
            draft_s=draft_s,
            verify_s=answered_s - asked_s - scores.retry_s,
            link_s=scores.link_s,
            retry_s=scores.retry_s,
            sample_s=draft.sample_s + ended_s - answered_s,
            wall_s=ended_s - started_s,
            top_k=sampler.top_k,
            top_p=sampler.top_p,
            policy=settings.policy.name,
            rule=name_of(settings.rule),
            reason=allowed.reason,
            state_bytes=scores.state_bytes,
            num_sequences=scores.num_sequences,
            reads_states=bool(settings.drafter.wants),
            tree=settings.drafter.tree,
        )
        self._rounds.append(result)
        self.totals.add(result)
        self._costs.add(result)
        return result


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


def _check_prompt(prompt: Sequence[int], target: Target) -> None:
    if not prompt:
        raise SettingsError("The prompt is empty; write something for the model to answer.")
    if len(prompt) >= target.context_length:
        raise SettingsError(
            f"The prompt is {len(prompt)} tokens long and leaves no room in the target's context "
            f"of {target.context_length}; shorten it."
        )
