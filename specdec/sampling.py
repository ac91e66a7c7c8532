"""From logits to probabilities: temperature, top-k, top-p, and drawing one token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError, SettingsError

FloatArray = NDArray[np.floating[Any]]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
MAX_TOP_K = 2**31 - 1
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
        if not 0 <= self.top_k <= MAX_TOP_K:
            raise SettingsError(f"top-k must be 0 (off) or a number of tokens up to {MAX_TOP_K:,}.")
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
        shifted = logits - peak
        np.maximum(shifted, _LOWEST, out=shifted)  # in place: fresh pages cost more than the sums
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

    def without(self, token_id: int) -> Distribution | None:
        """Return the law that is left after `token_id` was drawn and rejected, None if nothing is.

        A sibling drawn without replacement is drawn from it. Log-probabilities and entropy remain
        the model's own.
        """
        left = self.probs.copy()
        left[token_id] = 0.0
        mass = float(left.sum(dtype=np.float64))
        return replace(self, probs=left / left.dtype.type(mass)) if mass > 0.0 else None

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
    """Make probabilities [vocab_size] of peak-shifted logits and their exponentials, in place."""
    if sampler.temperature == 0.0:
        weights.fill(0.0)
        weights[int(shifted.argmax())] = 1.0
        return weights
    if sampler.temperature != 1.0:
        shifted *= 1.0 / sampler.temperature
        np.exp(shifted, out=weights)
        total = float(weights.sum(dtype=np.float64))
    if sampler.top_k and sampler.top_k < weights.size:
        weights = _keep(weights, top_ids(weights, sampler.top_k))
        total = float(weights.sum(dtype=np.float64))
    if sampler.top_p < 1.0:
        weights = _keep(weights, _nucleus(weights, sampler.top_p * total))
        total = float(weights.sum(dtype=np.float64))
    weights /= weights.dtype.type(total)
    return weights


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
