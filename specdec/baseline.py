"""Plain decoding: the engine's loop with nothing drafted, and its measurement.

What every speed-up is measured against. Calls that score several tokens are measured beside it,
because what a longer draft adds to a call is no straight line: kernels work in blocks of rows, and
the fifth row may cost what the second to the fourth did not. It is a generator of events like any
run, so that whoever waits for it can show how far it is, and leave.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from typing import TypeVar

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.drafters.none import NoDrafter
from specdec.engine import Clock, RoundSettings, generate
from specdec.errors import TargetError
from specdec.metrics import Block
from specdec.policies.base import Budget
from specdec.records import Event, RoundResult, RunSummary
from specdec.sampling import Sampler
from specdec.targets.base import Target

BLOCK_CALLS, MIN_BLOCK_CALLS = 16, 8
BLOCK_S = 1.2
"""A block, of which there is one before a run and one after it, ends after this many seconds, if
it has its least calls: nobody should wait long for a slow target or a long link."""
WIDTHS = (3, 7, 4, 8, 1, 16, 12)
"""Drafted tokens whose calls are timed, those first that most drafts are as long as. Where kernels
take four rows at once, or eight, the steps lie between 3 and 4, 7 and 8."""
WIDE_ROUNDS = 2
"""How often each is timed, unless that takes longer than a block may."""
Value = TypeVar("Value")


class _Filler(Drafter, DrafterRun):
    """Drafts the last token over and over, as many as it may: calls of a width, read by nobody."""

    name = "filler"

    def start(self, prompt: Sequence[int]) -> _Filler:
        return self

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        return Draft.chain([context[-1]] * budget.depth)


_FILLER = _Filler()


def decode_plainly(
    prompt: Sequence[int],
    target: Target,
    sampler: Sampler,
    *,
    max_tokens: int,
    eos_token_ids: Collection[int] = (),
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Generator[Event, None, None]:
    """Write with nothing drafted, one token per call; see `generate`."""
    return generate(
        prompt,
        target,
        RoundSettings(NoDrafter(), 0, sampler),
        max_tokens=max_tokens,
        eos_token_ids=eos_token_ids,
        seed=seed,
        clock=clock,
    )


def measure_block(
    prompt: Sequence[int],
    target: Target,
    sampler: Sampler,
    *,
    num_calls: int = BLOCK_CALLS,
    widths: Sequence[int] = (),
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Generator[Event, None, Block]:
    """Time plain decoding of `target`: `num_calls` calls of one token at most, one before them.

    After these, calls that score as many drafted tokens as `widths` says, each `WIDE_ROUNDS` times
    and for `BLOCK_S` at most. The same loop with nothing to draft; end tokens do not end it, and
    the first call is left out because it warms caches up. May be left at any yield; the generator's
    value is the measurement (`value_of` takes it where nobody looks at the events).

    Raises:
        TargetError: the target failed.
    """
    plain: list[RoundResult] = []
    wide: list[RoundResult] = []
    ahead = [*widths] * WIDE_ROUNDS
    settings = RoundSettings(NoDrafter(), 0, sampler)
    events = generate(
        prompt,
        target,
        lambda: settings,
        max_tokens=num_calls + 1 + sum(width + 1 for width in ahead),
        seed=seed,
        clock=clock,
    )
    with closing(events):
        for event in events:
            if isinstance(event, RoundResult):
                (wide if settings.num_draft_tokens else plain).append(event)
            elif isinstance(event, RunSummary) and event.error:
                raise TargetError(event.error)
            yield event
            is_enough = len(plain) > num_calls or (len(plain) > MIN_BLOCK_CALLS and _is_long(plain))
            if not (is_enough and isinstance(event, RoundResult)):
                continue
            if not ahead or _is_long(wide):
                break
            settings = RoundSettings(_FILLER, ahead.pop(0), sampler)
    return Block.of_rounds(plain[1:] or plain, wide)


def _is_long(rounds: Sequence[RoundResult]) -> bool:
    return sum(one.wall_s for one in rounds) > BLOCK_S


def value_of(events: Generator[Event, None, Value]) -> Value:
    """Run a generator of events to its end and return its value."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: Value = end.value
            return value
