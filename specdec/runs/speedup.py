"""How many times as fast as plain decoding a run was, and how sure that is on this machine.

A machine that does other things too makes one call in ten take three times as long, and says
nothing of speculation by that. So both sides are taken at their typical pace: plain decoding at the
median of its calls, the run at the median of its rounds, among those that drafted as many tokens.

The interval answers one question: made again, the same run, the same tokens, what might have come
out? Tokens are therefore fixed and only times vary. They are drawn anew two neighbours at
a time, because a disturbance lasts longer than a call (a bootstrap of blocks: Künsch 1989,
https://doi.org/10.1214/aos/1176347265). Plain decoding is measured before the run and after it, and
what the two differ by is in the interval as well: it reaches from what the one block allows to what
the other does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from specdec.metrics import Baseline
from specdec.records import RoundResult, RunSummary
from specdec.runs.noise import CONFIDENCE, Interval, has_changed
from specdec.runs.run import Run

MIN_CALLS = 8
"""A run of fewer target calls is too short to be called faster or slower."""
MAX_WIDTH = 2.0
"""An interval whose ends are further apart than this, as a factor, says that something else ran."""
_STRETCH = 2
_MAX_ROUNDS = 256
_NUM_RESAMPLES = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as fast as plain decoding a run was.

    Attributes:
        over_link: against one call per token over the same link.
        alone: against the target decoding where it is, without the link.
        disturbance: what makes both doubtful, in words; the empty text where nothing does.
    """

    over_link: Interval
    alone: Interval
    disturbance: str


def speedup_of(run: Run) -> Speedup | None:
    """Return the speed-up of a run; None where it was too short, or nothing is there to compare."""
    return measure_speedup(run.rounds, run.summary, run.baseline)


def measure_speedup(
    rounds: Sequence[RoundResult], summary: RunSummary, baseline: Baseline | None
) -> Speedup | None:
    """Return the speed-up of the rounds so far; see `speedup_of`.

    Args:
        rounds: of the run, in order; may be empty where only the totals are known.
        summary: their totals.
        baseline: plain decoding of the same target over the same link.
    """
    if baseline is None or not summary.tokens_per_s or summary.num_target_calls < MIN_CALLS:
        return None
    if not (rounds and baseline.blocks):
        speed = summary.tokens_per_s
        return Speedup(
            Interval(speed * baseline.call_s, None, None, 1),
            Interval(speed * baseline.computing_s, None, None, 1),
            "",
        )
    paces = _paces([(r.num_drafted, r.wall_s) for r in rounds])
    speed = summary.num_tokens / paces[0]
    drawn = summary.num_tokens / paces[1:]
    over_link = _interval(speed, drawn, baseline.call_s, [b.calls_s for b in baseline.blocks])
    alone = _interval(speed, drawn, baseline.computing_s, [b.computing_s for b in baseline.blocks])
    return Speedup(over_link, alone, _disturbance(baseline, over_link))


def _paces(rounds: Sequence[tuple[int, float]]) -> Floats:
    """Return seconds for all rounds at their typical pace: as it was, then for each resample."""
    alike: dict[int, list[float]] = defaultdict(list)
    for num_drafted, wall_s in rounds:
        alike[num_drafted].append(wall_s)
    typical = {number: float(np.median(times)) for number, times in alike.items()}
    total_s = sum(len(times) * typical[number] for number, times in alike.items())
    relative = np.array([wall_s / typical[n] if typical[n] else 1.0 for n, wall_s in rounds])
    drawn = _resampled_medians(tuple(relative[-_MAX_ROUNDS:]))
    return total_s * np.concatenate([[1.0], drawn])


def _interval(
    speed: float, drawn: Floats, typical_s: float, blocks: Sequence[tuple[float, ...]]
) -> Interval:
    """Return the speed-up over calls of `typical_s`, as far as any block lets it reach."""
    quantiles = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    mean = speed * typical_s
    reach = [np.quantile(drawn * _resampled_medians(times), quantiles) for times in blocks]
    low, high = min(low for low, _ in reach), max(high for _, high in reach)
    num_calls = sum(map(len, blocks))
    return Interval(mean, min(mean, float(low)), max(mean, float(high)), num_calls)


def call_interval(baseline: Baseline) -> Interval:
    """Return the seconds of a typical call of plain decoding over the link."""
    times = tuple(one for block in baseline.blocks for one in block.calls_s)
    if not times:
        return Interval(baseline.call_s, None, None, baseline.num_tokens)
    low, high = np.quantile(_resampled_medians(times), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(baseline.call_s, float(low), float(high), len(times))


def interval_words(interval: Interval) -> str:
    """Return a speed-up as it is shown everywhere: 1.37 (1.31–1.43)."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} ({interval.low:.2f}–{interval.high:.2f})"


@lru_cache(maxsize=256)
def _resampled_medians(times: tuple[float, ...]) -> Floats:
    """Return [resamples] medians of stretches drawn from `times`; seeded, as a page redraws."""
    values = np.array(times)
    length = min(_STRETCH, len(values))
    size = (_NUM_RESAMPLES, -(-len(values) // length))
    starts = np.random.default_rng(len(values)).integers(0, len(values) - length + 1, size)
    picks = (starts[..., None] + np.arange(length)).reshape(_NUM_RESAMPLES, -1)
    medians: Floats = np.median(values[picks[:, : len(values)]], axis=1)
    return medians


def _disturbance(baseline: Baseline, found: Interval) -> str:
    assert found.low is not None
    assert found.high is not None
    if baseline.had_company:
        return "Another run went on in this program at the same time: repeat this one by itself."
    blocks = [block.calls_s for block in baseline.blocks]
    if len(blocks) > 1 and has_changed(blocks[0], blocks[-1]):
        before, after = (1e3 * float(np.median(block)) for block in (blocks[0], blocks[-1]))
        return (
            f"The machine was busy: a call of plain decoding took {before:.0f} ms before this run "
            f"and {after:.0f} ms after it. Repeat it."
        )
    if found.high > MAX_WIDTH * found.low:
        return "The machine was busy: the same work took very different times. Repeat this run."
    return ""
