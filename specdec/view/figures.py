"""The strip of large figures above the tree, and the sentence that a run ends with."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from specdec.metrics import Baseline
from specdec.records import FinishReason, RunSummary
from specdec.runs.run import Run
from specdec.view.text import escape_attribute
from specdec.view.words import percent

MIN_JUDGED_CALLS = 8
"""A run of fewer target calls is too short to be called faster or slower."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that can be read across a room; `unit` says what of, `meaning` defines it."""

    value: str
    unit: str
    meaning: str


def figures(
    summary: RunSummary, baseline: Baseline | None, *, max_tokens_per_call: int, link: str
) -> tuple[Figure, ...]:
    """Return tokens per second, the speed-up, tokens per target call, and what was accepted.

    Args:
        summary: of the rounds so far, or of the whole run.
        baseline: plain decoding, where it has been measured.
        max_tokens_per_call: the depth of the draft and one token of the target's own: K + 1.
        link: "emulated", "measured", or nothing where there is none.
    """
    speed, per_call = summary.tokens_per_s, summary.tokens_per_target_call
    over = f" over the same {link} link" if link else ""
    speedup = None if not speed or not baseline else baseline.speedup(speed)
    rate = summary.draft_acceptance_rate
    return (
        Figure(
            _number(speed, 1),
            "tokens per second",
            "Measured: tokens written over the time since the prompt was read, of the whole run "
            "so far. What the screen takes is not in it.",
        ),
        Figure(
            "–" if speedup is None else f"{speedup:.2f} ×",
            f"plain decoding{over}",
            "Measured: tokens per second of this run over those of the same target writing one "
            f"token per call{over}. Reading the prompt is in neither.",
        ),
        Figure(
            _number(per_call, 2),
            f"tokens per target call, of {max_tokens_per_call} possible",
            "Measured: all tokens written over all calls of the target. Plain decoding has 1; "
            "more than the drafted tokens and one of the target's own cannot be.",
        ),
        Figure(
            percent(rate),
            "of the drafted tokens accepted",
            "Measured: accepted over drafted tokens, of the whole run so far.",
        ),
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def figures_html(strip: tuple[Figure, ...]) -> str:
    """Return the strip as HTML of a height that no value changes."""
    cells = "".join(
        f'<div class="figure" title="{escape_attribute(one.meaning)}"><b>{escape(one.value)}</b>'
        f"<span>{escape(one.unit)}</span></div>"
        for one in strip
    )
    return f'<div class="figures">{cells}</div>'


def verdict(run: Run, link: str) -> str:
    """Return in one sentence or two what speculation brought, and what the text is."""
    summary, baseline = run.summary, run.baseline
    speed = summary.tokens_per_s
    if summary.finish_reason is FinishReason.ERROR or not run.rounds:
        return ""
    said = ""
    if not summary.num_draft_tokens:
        said = "Nothing was drafted: this is plain decoding."
    elif speed and baseline and summary.num_target_calls >= MIN_JUDGED_CALLS:
        said = f"{baseline.speedup(speed):.2f} times plain decoding"
        if link:
            alone = baseline.speedup_without_link(speed)
            said += f" over the same {link} link; without the link {alone:.2f}"
        said += "."
    elif speed and baseline:
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


STYLE = """
.figures {display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.75rem; height: 4.1rem;
  overflow: hidden}
.figure {line-height: 1.15; cursor: help; min-width: 0}
.figure b {display: block; font-size: 34px; font-weight: 700; white-space: nowrap;
  font-variant-numeric: tabular-nums}
.figure span {font-size: 0.8rem; opacity: 0.75; display: block; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis}
@media (max-width: 640px) {
  .figures {grid-template-columns: repeat(2, 1fr); height: auto}
}
"""
