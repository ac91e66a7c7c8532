"""The strip of large figures above the tree, and the sentence that a run ends with."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from specdec.records import FinishReason, RunSummary, TokenStatus
from specdec.runs.run import Run
from specdec.runs.speedup import MIN_CALLS, Speedup, interval_words, speedup_of
from specdec.view.palette import LOOKS
from specdec.view.text import escape_attribute
from specdec.view.words import percent


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that can be read across a room; `unit` says what of, `meaning` defines it.

    `segments` is how full each piece of a bar below it is, from 0 to 1.
    """

    value: str
    unit: str
    meaning: str
    interval: str = ""
    segments: tuple[float, ...] = ()


def figures(
    summary: RunSummary, speedup: Speedup | None, *, max_tokens_per_call: int, link: str
) -> tuple[Figure, ...]:
    """Return tokens per second, the speed-up, tokens per target call, and what was accepted.

    Args:
        summary: of the rounds so far, or of the whole run.
        speedup: against plain decoding, where that can be told.
        max_tokens_per_call: the depth of the draft and one token of the target's own: K + 1.
        link: "emulated", "measured", or nothing where there is none.
    """
    speed, per_call = summary.tokens_per_s, summary.tokens_per_target_call
    over = f" over the same {link} link" if link else ""
    found = "" if speedup is None else interval_words(speedup.over_link)
    times, _, interval = found.partition(" ")
    rate = summary.draft_acceptance_rate
    return (
        Figure(
            _number(speed, 1),
            "tokens per second",
            "Measured: tokens written over the time since the prompt was read, of the whole run "
            "so far. What the screen takes is not in it.",
        ),
        Figure(
            f"{times} ×" if times else "–",
            "plain decoding" + (f", same {link} link" if link else ""),
            "Measured: the pace of this run over that of the same target writing one token per "
            f"call{over}, each at its median call, before and after the run. Beside it, what the "
            "same run might have come to if made again (95 %). Reading the prompt is in neither. "
            f"A run of fewer than {MIN_CALLS} calls says nothing.",
            interval.strip("()"),
        ),
        Figure(
            _number(per_call, 2),
            f"tokens per target call, of {max_tokens_per_call} possible",
            "Measured: all tokens written over all calls of the target. Plain decoding has 1; "
            "more than the drafted tokens and one of the target's own cannot be. The bar has one "
            "piece for each token that is possible.",
            segments=_segments(per_call, max_tokens_per_call),
        ),
        Figure(
            percent(rate),
            "of the drafted tokens accepted",
            "Measured: accepted over drafted tokens, of the whole run so far.",
        ),
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _segments(filled: float | None, count: int) -> tuple[float, ...]:
    return tuple(min(1.0, max(0.0, (filled or 0.0) - place)) for place in range(count))


def figures_html(strip: tuple[Figure, ...]) -> str:
    """Return the strip as HTML of a height that no value changes."""
    cells = "".join(
        f'<div class="figure" title="{escape_attribute(one.meaning)}"><b>{escape(one.value)}'
        f"{_small(one.interval)}</b>"
        f"<span>{escape(one.unit)}</span>{_bar(one.segments)}</div>"
        for one in strip
    )
    return f'<div class="figures">{cells}</div>'


def _small(interval: str) -> str:
    return f" <small>{escape(interval)}</small>" if interval else ""


def _bar(segments: tuple[float, ...]) -> str:
    pieces = "".join(f'<i style="--full:{full:.1%}"></i>' for full in segments)
    return f'<div class="segments">{pieces}</div>' if segments else ""


def verdict(run: Run, link: str) -> str:
    """Return in one sentence or two what speculation brought, and what the text is."""
    summary, speedup = run.summary, speedup_of(run)
    if summary.finish_reason is FinishReason.ERROR or not run.rounds:
        return ""
    said = ""
    if not summary.num_draft_tokens:
        said = "Nothing was drafted: this is plain decoding."
    elif speedup is not None:
        said = f"{interval_words(speedup.over_link)} times plain decoding"
        if link:
            said += f" over the same {link} link; without the link {speedup.alone.mean:.2f}"
        said += f". {speedup.disturbance}".rstrip()
    elif run.baseline is not None:
        said = "Too short a run to say how much faster it was."
    return f"{said} {_law(run)}".strip()


def _law(run: Run) -> str:
    kind = run.exactness.partition(":")[0]
    if not kind.startswith("exact"):
        return f"The text follows the target as far as it tells: {run.exactness}."
    within = kind.removeprefix("exact")
    if all(result.temperature == 0 for result in run.rounds):
        # The likeliest token is among the likeliest ones, however few of them a server tells.
        within = "" if within.startswith(" for top-k") else within
        return f"The text is what the target alone would write{within}."
    return f"The text follows the target’s own distribution{within}."


STYLE = f"""
.figures {{display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.75rem; height: 4.4rem;
  overflow: hidden}}
.figure {{line-height: 1.15; cursor: help; min-width: 0}}
.figure b {{display: block; font-size: 34px; font-weight: 700; white-space: nowrap;
  font-variant-numeric: tabular-nums}}
.figure small {{font-size: 0.95rem; font-weight: 500; opacity: 0.8}}
.figure span {{font-size: 0.8rem; opacity: 0.75; display: block; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis}}
.segments {{display: flex; gap: 2px; height: 8px; margin-top: 4px; max-width: 16rem}}
.segments i {{flex: 1; border-radius: 2px; background: linear-gradient(to right,
  {LOOKS[TokenStatus.ACCEPTED].color} var(--full), #94a3b855 var(--full))}}
@media (max-width: 640px) {{
  .figures {{grid-template-columns: repeat(2, 1fr); height: auto}}
  .figure span {{white-space: normal; height: 2.3em}}
}}
"""
