"""The time before the first token, step by step: what was done, and what is being done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from specdec.runs.steps import Taken

_SHORTEST_S = 0.05
"""A step that was over sooner is not worth a word."""


def steps_words(taken: Sequence[Taken]) -> str:
    """Return the steps in a line: done ones with what they took, the present one counting."""
    return " · ".join(_words(taken))


def steps_html(taken: Sequence[Taken]) -> str:
    """Return the line that stands where the run's own sentence will be."""
    said = steps_words(taken)
    parts = "".join(f"<span>{escape(one)}</span>" for one in _words(taken))
    return f'<div class="verdict steps" title="{escape(said)}">{parts}</div>'


def _words(taken: Sequence[Taken]) -> Iterator[str]:
    for one in taken:
        if one.is_present:
            yield f"{one.step}: {one.seconds:.1f} s so far"
        elif one.seconds >= _SHORTEST_S:
            yield f"✓ {one.step} {one.seconds:.1f} s"


STYLE = """
.verdict.steps {flex-wrap: wrap; align-content: center; gap: 0 1.1rem; font-weight: 400}
.verdict.steps span:last-child {font-weight: 600}
"""
