"""Plain decoding: the engine's loop with nothing drafted, and its measurement.

What every speed-up is measured against. It is a generator of events like any run, so that whoever
waits for it can show how far it is, and leave.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from typing import TypeVar

from specdec.drafters.none import NoDrafter
from specdec.engine import Clock, RoundSettings, generate
from specdec.errors import TargetError
from specdec.metrics import Block
from specdec.records import Event, RoundResult, RunSummary
from specdec.sampling import Sampler
from specdec.targets.base import Target

BLOCK_CALLS, MIN_BLOCK_CALLS = 16, 8
BLOCK_S = 1.2
"""A block, of which there is one before a run and one after it, ends after this many seconds, if
it has its least calls: nobody should wait long for a slow target or a long link."""
Value = TypeVar("Value")


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
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Generator[Event, None, Block]:
    """Time plain decoding of `target`: `num_calls` calls of one token at most, one before them.

    The same loop with nothing to draft; end tokens do not end it, and the first call is left out
    because it warms caches up. May be left at any yield; the generator's value is the measurement
    (`value_of` takes it where nobody looks at the events).

    Raises:
        TargetError: the target failed.
    """
    rounds: list[RoundResult] = []
    events = decode_plainly(
        prompt, target, sampler, max_tokens=num_calls + 1, seed=seed, clock=clock
    )
    with closing(events):
        for event in events:
            if isinstance(event, RoundResult):
                rounds.append(event)
            elif isinstance(event, RunSummary) and event.error:
                raise TargetError(event.error)
            yield event
            if len(rounds) > MIN_BLOCK_CALLS and sum(r.wall_s for r in rounds) > BLOCK_S:
                break
    return Block.of_rounds(rounds[1:] or rounds)


def value_of(events: Generator[Event, None, Value]) -> Value:
    """Run a generator of events to its end and return its value."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: Value = end.value
            return value
