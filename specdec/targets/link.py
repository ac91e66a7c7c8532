"""An emulated network link around a target on this machine.

The project's subject is a draft at the edge and a target across a network. Where there is no
network to cross, this waits a real round trip around every call, so that everything measured is
measured with it; wherever its effect shows, it is labelled *emulated*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores, Target, TargetRun, Wanted

Sleep = Callable[[float], None]

STATE_BYTES_PER_S = 12_500_000
"""100 Mbit/s, for hidden states only: a drafter that reads them has them sent with each answer.

Tokens, and what a target says of them, are as few bytes as any request's and count as none.
"""


class EmulatedLink:
    """A target behind a link with a round trip of `rtt_s` seconds.

    The round trip of each call is drawn from a normal distribution with standard deviation
    `jitter_s`, never below zero, from a generator of its own: the link does not change what is
    written. Half of it passes before the target works, half after. The prompt travels with the
    first call, so reading it costs no trip of its own. Hidden states that the drafter asked for
    come back with the answers, those of the prompt with the first, at `STATE_BYTES_PER_S`.
    """

    link_is_emulated = True

    def __init__(
        self,
        target: Target,
        rtt_s: float,
        jitter_s: float = 0.0,
        *,
        seed: int = 0,
        sleep: Sleep = time.sleep,
    ) -> None:
        self.target = target
        self.rtt_s = rtt_s
        self.jitter_s = jitter_s
        self._seed = seed
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def backend(self) -> str:
        return self.target.backend

    @property
    def vocab_size(self) -> int:
        return self.target.vocab_size

    @property
    def context_length(self) -> int:
        return self.target.context_length

    def exactness_for(self, sampler: Sampler) -> Exactness:
        return self.target.exactness_for(sampler)

    def cannot_give(self, wanted: Wanted) -> str | None:
        return self.target.cannot_give(wanted)

    def start(self, prompt: Sequence[int], wanted: Wanted = LOGITS_ONLY) -> EmulatedLinkRun:
        return EmulatedLinkRun(self.target.start(prompt, wanted), self._trip_s(), self._sleep)

    def _trip_s(self) -> Callable[[], float]:
        rng = np.random.default_rng(self._seed)
        return lambda: max(0.0, float(rng.normal(self.rtt_s, self.jitter_s)))


class EmulatedLinkRun:
    """One run across the link; `link_s` is the time really waited."""

    def __init__(self, run: TargetRun, trip_s: Callable[[], float], sleep: Sleep) -> None:
        self._run = run
        self._trip_s = trip_s
        self._sleep = sleep
        self._owed_bytes = _size(run.read_hidden)

    @property
    def read_hidden(self) -> NDArray[np.float32] | None:
        return self._run.read_hidden

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        trip_s = self._trip_s()
        there_s = self._wait(trip_s / 2)
        scores = self._run.score(context, draft)
        state_bytes = self._owed_bytes + _size(scores.hidden)
        self._owed_bytes = 0
        back_s = self._wait(trip_s / 2 + state_bytes / STATE_BYTES_PER_S)
        link_s = scores.link_s + there_s + back_s
        return replace(scores, link_s=link_s, state_bytes=state_bytes)

    def _wait(self, seconds: float) -> float:
        began_s = time.perf_counter()
        self._sleep(seconds)
        return time.perf_counter() - began_s

    def close(self) -> None:
        self._run.close()


def _size(states: NDArray[np.float32] | None) -> int:
    return 0 if states is None else states.nbytes
