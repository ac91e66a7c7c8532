"""From logits to probabilities, and the one acceptance rule of the project.

Glossary (the words of vLLM's rejection sampler, which says "recovered" for resampled):

- *pending*: a drafted token the target has not answered for yet.
- *accepted*: a drafted token that passed its test; it becomes output.
- *rejected*: a drafted token that failed its test; its subtree dies with it.
- *discarded*: a drafted token that was never tested, because its parent was not accepted or an
  earlier sibling was.
- *resampled*: the token drawn from the residual distribution after every candidate of a node was
  rejected; it ends the round.
- *bonus*: the token drawn from the target after the last node of a fully accepted path.

The rule is modified rejection sampling (Leviathan, Kalman, Matias 2023,
https://arxiv.org/abs/2211.17192), applied recursively over the children of each node of a tree
(SpecInfer, Miao et al. 2024, https://arxiv.org/abs/2305.09781; sampling without replacement as in
Jeon et al. 2024, https://arxiv.org/abs/2402.14160). A chain is a tree with one child per node, an
n-gram draft is a point mass, several drafters are several children: there is no second rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError, SettingsError
from specdec.records import Draft, TokenStatus

FloatArray = NDArray[np.floating[Any]]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
_LOWEST = np.float32(-1e4)
"""Shifted logits are clipped here: exp() is exactly 0 there, and 0 · logit is 0, not NaN."""
_NUCLEUS_GUESS = 1024
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a distribution is made from logits: temperature, then top-k, then top-p.

    `temperature` 0 is greedy decoding; `top_k` 0 and `top_p` 1 switch the truncations off.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        greedy = self.temperature == 0.0
        if not (greedy or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            raise SettingsError(
                f"The temperature must be 0 (greedy) or lie between {MIN_TEMPERATURE:g} and "
                f"{MAX_TEMPERATURE:g}, not {self.temperature:g}."
            )
        if self.top_k < 0:
            raise SettingsError(f"top-k must be 0 (off) or more, not {self.top_k}.")
        if not 0.0 < self.top_p <= 1.0:
            raise SettingsError(f"top-p must lie above 0 and at most at 1, not {self.top_p:g}.")


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """One next-token distribution: as it is tested, and as the model gave it.

    `probs` [vocab_size] is after temperature, top-k and top-p and sums to 1. `logits` [vocab_size]
    are the model's own, `log_normalizer` their log-sum-exp, and `entropy` (nats) is that of the
    model's own distribution (temperature 1): it says how sure the model is, whatever the sampler.
    """

    probs: FloatArray
    logits: FloatArray
    log_normalizer: float
    entropy: float

    @classmethod
    def from_logits(cls, logits: FloatArray, sampler: Sampler) -> Distribution:
        """Apply `sampler` to `logits` [vocab_size]; −inf marks tokens that cannot occur.

        Works in the precision of `logits`; sums are taken in float64.

        Raises:
            ModelError: a logit is not a number, or none is finite.
        """
        peak = logits.max()
        if not math.isfinite(peak):
            raise ModelError(
                "A model returned logits that are not numbers; its weights may be damaged, or too "
                "coarsely quantised for this backend."
            )
        shifted = np.maximum(logits - peak, _LOWEST)
        weights = np.exp(shifted)
        total = float(weights.sum(dtype=np.float64))
        log_total = float(np.log(total))
        entropy = max(0.0, log_total - float(np.dot(weights, shifted)) / total)
        probs = _apply(sampler, shifted, weights, total)
        return cls(probs, logits, float(peak) + log_total, entropy)

    @classmethod
    def from_probs(cls, probs: FloatArray) -> Distribution:
        """Wrap probabilities [vocab_size] that are already final (toy models, tests)."""
        with np.errstate(divide="ignore"):
            logits = np.log(probs)
        positive = probs > 0
        entropy = -float(np.dot(probs[positive], logits[positive]))
        return cls(probs, logits, 0.0, entropy)

    def top_ids(self, count: int) -> list[int]:
        """Return up to `count` ids, likeliest first by the model's own logits.

        Nearly always a handful of tokens hold the mass, and one comparison finds them: some ten
        times faster on a large vocabulary than a partition.
        """
        for gap in (5.0, 10.0, 15.0):
            candidates = np.flatnonzero(self.logits > self.log_normalizer - gap)
            if candidates.size >= count:
                break
        else:
            candidates = np.flatnonzero(self.logits > -np.inf)
        order = np.argsort(-self.logits[candidates], kind="stable")
        top: list[int] = candidates[order[:count]].tolist()
        return top

    def logprob(self, token_id: int) -> float:
        """Return the model's own log-probability of a token (temperature 1, natural log)."""
        return float(self.logits[token_id]) - self.log_normalizer


def _apply(sampler: Sampler, shifted: FloatArray, weights: FloatArray, total: float) -> FloatArray:
    """Return probabilities [vocab_size] from peak-shifted logits and their exponentials."""
    if sampler.temperature == 0.0:
        probs = np.zeros_like(weights)
        probs[int(shifted.argmax())] = 1.0
        return probs
    if sampler.temperature != 1.0:
        weights = np.exp(shifted * (1.0 / sampler.temperature))
        total = float(weights.sum(dtype=np.float64))
    if sampler.top_k and sampler.top_k < weights.size:
        weights = _keep(weights, top_ids(weights, sampler.top_k))
        total = float(weights.sum(dtype=np.float64))
    if sampler.top_p < 1.0:
        weights = _keep(weights, _nucleus(weights, sampler.top_p * total))
        total = float(weights.sum(dtype=np.float64))
    return weights / weights.dtype.type(total)


def _keep(weights: FloatArray, token_ids: NDArray[np.intp]) -> FloatArray:
    kept = np.zeros_like(weights)
    kept[token_ids] = weights[token_ids]
    return kept


def _nucleus(weights: FloatArray, mass: float) -> NDArray[np.intp]:
    """Return the fewest tokens, heaviest first, whose weights reach `mass`."""
    for count in (min(_NUCLEUS_GUESS, weights.size), weights.size):
        order = top_ids(weights, count)
        reached = np.cumsum(weights[order], dtype=np.float64)
        if reached[-1] >= mass:
            break
    return order[: int(np.searchsorted(reached, mass)) + 1]


def top_ids(values: FloatArray, count: int) -> NDArray[np.intp]:
    """Return the ids of the `count` largest entries of `values` [n], largest first.

    Ties go to the lower id, so that the answer does not depend on how the search went.
    """
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        candidates = np.flatnonzero(values >= threshold)
    else:
        candidates = np.arange(values.size)
    order = np.argsort(-values[candidates], kind="stable")
    return candidates[order[:count]]


def sample(probs: FloatArray, rng: np.random.Generator) -> int:
    """Draw one token id from unnormalised, non-negative `probs` [vocab_size].

    By the inverse of the cumulative mass, first over blocks of tokens and then inside the one that
    is hit: a running sum over a whole vocabulary costs twenty times as much as sums of blocks.
    """
    blocks = np.add.reduceat(probs, np.arange(0, probs.size, _BLOCK), dtype=np.float64)
    block, left = _hit(blocks, rng.random() * float(blocks.sum()))
    start = block * _BLOCK
    within, _ = _hit(probs[start : start + _BLOCK], left)
    return start + within


def _hit(masses: FloatArray, point: float) -> tuple[int, float]:
    """Return the index of the mass that `point` falls on, and how far into it it falls."""
    ends = np.cumsum(masses, dtype=np.float64)
    point = min(point, float(np.nextafter(ends[-1], 0.0)))  # rounding must not carry it past
    # side="right": the first index whose end exceeds the point, so that its own mass is positive.
    index = int(np.searchsorted(ends, point, side="right"))
    return index, point - float(ends[index - 1]) if index else point


@dataclass(frozen=True, slots=True)
class Test:
    """What became of one drafted token; `acceptance_prob` and `uniform` are None if untested.

    `target_prob` is the target's probability of the token at the moment of its test: for the
    second and later siblings it is taken from the residual their rejected elders left.
    `expected_acceptance` is Σ min(p, q) there, which observed acceptance must follow.
    """

    __test__ = False  # not a pytest class

    status: TokenStatus
    acceptance_prob: float | None = None
    uniform: float | None = None
    target_prob: float | None = None
    expected_acceptance: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The outcome of one round.

    `path` holds the indices of the accepted nodes, root first; `tests` one entry per drafted
    token; `final_token` is None only where the target had no row to draw it from; `final_probs`
    [vocab_size] is what it was drawn from (the residual, or the target's distribution), which is
    not normalised.
    """

    path: tuple[int, ...]
    tests: tuple[Test, ...]
    final_token: int | None
    final_status: TokenStatus
    final_probs: FloatArray | None


def verify(
    draft: Draft, target_probs: Sequence[FloatArray | None], rng: np.random.Generator
) -> Verdict:
    """Walk the draft tree from the root and decide which tokens the target takes.

    Whatever the draft, the emitted tokens follow the target's distribution exactly: one test
    emits x with probability min(p, q)(x) and otherwise passes the residual max(0, p − q) on to
    the next sibling, and min(p, q) + max(0, p − q) = p.

    Args:
        draft: the tree; siblings are tested in the order in which they stand in it.
        target_probs: one row [vocab_size] per context: row 0 after the committed tokens, row
            i + 1 after node i. None where the target could not score: the round ends there with
            what was accepted so far, and no token is drawn.
        rng: source of the uniforms and of the final token.
    """
    tests = [Test(TokenStatus.DISCARDED)] * len(draft)
    children = draft.children()
    path: list[int] = []
    node = -1
    while True:
        row = target_probs[node + 1]
        if row is None:
            return Verdict(tuple(path), tuple(tests), None, TokenStatus.BONUS, None)
        current = row
        accepted = None
        for child in children[node + 1]:
            token_id, draft_probs = draft.token_ids[child], draft.draft_probs(child)
            target_prob = float(current[token_id])
            draft_prob = 1.0 if draft_probs is None else float(draft_probs[token_id])
            acceptance_prob = min(1.0, target_prob / draft_prob)
            uniform = float(rng.random())
            taken = uniform < acceptance_prob
            status = TokenStatus.ACCEPTED if taken else TokenStatus.REJECTED
            expected = target_prob if draft_probs is None else overlap(current, draft_probs)
            tests[child] = Test(status, acceptance_prob, uniform, target_prob, expected)
            if taken:
                accepted = child
                break
            current = residual(current, token_id, draft_probs)
        if accepted is None:
            status = TokenStatus.RESAMPLED if children[node + 1] else TokenStatus.BONUS
            token = sample(current, rng)
            return Verdict(tuple(path), tuple(tests), token, status, current)
        path.append(accepted)
        node = accepted


def overlap(target_probs: FloatArray, draft_probs: FloatArray) -> float:
    """Return Σ min(p, q) of two distributions [vocab_size]: the chance that a draft passes."""
    return float(np.minimum(target_probs, draft_probs).sum(dtype=np.float64))


def residual(current: FloatArray, token_id: int, draft_probs: FloatArray | None) -> FloatArray:
    """Return what is left of `current` [vocab_size] after `token_id` was rejected, normalised.

    `draft_probs` is the distribution the token was drawn from, None for a point mass. A rejection
    implies positive residual mass up to rounding; where rounding ate it, `current` and the draft
    agree to the last bit and `current` itself is the right answer.
    """
    if draft_probs is None:
        left = current.copy()
        left[token_id] = 0.0
    else:
        left = np.maximum(current - draft_probs, 0.0)
    mass = float(left.sum(dtype=np.float64))
    return left / left.dtype.type(mass) if mass > 0.0 else current
