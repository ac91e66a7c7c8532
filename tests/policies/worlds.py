"""Simulated worlds: rounds with known acceptance and known costs, for policies to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from specdec.metrics import predicted_tokens_per_round
from specdec.policies.base import MAX_DEPTH, Policy
from specdec.records import RoundResult, TokenRecord, TokenStatus


@dataclass(frozen=True)
class World:
    """A target, a draft and a machine; all times in milliseconds.

    Attributes:
        acceptance: round → conditional acceptance of a position counted from 0; or one number.
        call_ms: W, what a call of the target costs whatever it scores.
        position_ms: C, what each scored position adds.
        draft_ms: per drafted token.
        link_ms: the network's share of a call.
        noise: standard deviation of the logarithm of each time.
        slow: round → how many times slower than usual it was.
        match: how often there is anything to draft, as with prompt lookup.
    """

    acceptance: float | Callable[[int, int], float]
    call_ms: float = 30.0
    position_ms: float = 2.0
    draft_ms: float = 3.0
    link_ms: float = 0.0
    noise: float = 0.05
    slow: Mapping[int, float] = field(default_factory=dict)
    match: float = 1.0

    def rate(self, number: int, place: int) -> float:
        return self.acceptance(number, place) if callable(self.acceptance) else self.acceptance

    def expected(self, k: int, number: int) -> tuple[float, float]:
        """Return the tokens and the seconds that a round with K drafted tokens means."""
        rates = [self.rate(number, place) for place in range(k)]
        tokens = 1 + self.match * (predicted_tokens_per_round(rates) - 1)
        drafted = self.match * k
        own_ms = self.call_ms + (drafted + 1) * self.position_ms + drafted * self.draft_ms
        return tokens, 1e-3 * (own_ms + self.link_ms)

    def speed(self, depths: Sequence[int], first: int = 0) -> float:
        """Return the expected tokens per second of rounds with those K, from round `first` on."""
        means = [self.expected(k, first + index) for index, k in enumerate(depths)]
        return sum(tokens for tokens, _ in means) / sum(seconds for _, seconds in means)

    def best(self, numbers: range) -> float:
        """Return the expected speed of the best K that stays the same in those rounds."""
        return max(self.speed([k] * len(numbers), numbers.start) for k in range(MAX_DEPTH + 1))

    def round(self, number: int, k: int, rng: np.random.Generator) -> RoundResult:
        """Draw one round."""
        depth = k if rng.random() < self.match else 0
        accepted = 0
        while accepted < depth and rng.random() < self.rate(number, accepted):
            accepted += 1
        slow = self.slow.get(number, 1.0)
        times = 1e-3 * slow * np.exp(rng.normal(0.0, self.noise, 3))
        draft_s = depth * self.draft_ms * times[0]
        call_s = (self.call_ms + (depth + 1) * self.position_ms) * times[1]
        link_s = self.link_ms * times[2]
        return make_round(number, k, depth, accepted, draft_s, call_s, link_s)


def make_round(
    number: int,
    k: int,
    depth: int,
    accepted: int,
    draft_s: float = 0.01,
    call_s: float = 0.03,
    link_s: float = 0.0,
    policy: str = "",
) -> RoundResult:
    """Return a round in which a chain of `depth` tokens was drafted and `accepted` stood."""
    statuses = [TokenStatus.ACCEPTED] * accepted
    statuses += [TokenStatus.REJECTED, *[TokenStatus.DISCARDED] * depth][: depth - accepted]
    candidates = tuple(
        TokenRecord(0, place - 1, place, status) for place, status in enumerate(statuses)
    )
    final = TokenStatus.BONUS if accepted == depth else TokenStatus.RESAMPLED
    return RoundResult(
        round=number,
        position=0,
        candidates=candidates,
        final=TokenRecord(0, -1, accepted, final),
        emitted=(0,) * (accepted + 1),
        num_draft_tokens=k,
        temperature=1.0,
        drafter="simulated",
        started_s=0.0,
        draft_s=draft_s,
        verify_s=call_s + link_s,
        link_s=link_s,
        retry_s=0.0,
        sample_s=0.0,
        wall_s=draft_s + call_s + link_s,
        policy=policy,
    )


def play(
    policy: Policy, world: World, num_rounds: int, k: int = 3, seed: int = 0
) -> list[RoundResult]:
    """Let a policy decide `num_rounds` rounds of a world, with K set to `k`."""
    rng, run = np.random.default_rng(seed), policy.start()
    rounds: list[RoundResult] = []
    for number in range(num_rounds):
        depth = run.budget(rounds, k).depth
        rounds.append(world.round(number, depth, rng))
    return rounds
