"""Plain decoding beside a run: where it would be by now, at the pace that was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from specdec.metrics import Baseline
from specdec.records import TokenStatus
from specdec.runs.speedup import measure_speedup
from specdec.view.palette import LOOKS, SHADOW_TEXT
from specdec.view.run_view import RunView
from specdec.view.text import TokenText, escape_attribute

_MEANING = (
    "The tokens of this run so far over the speed-up above. Before there is one: the time of this "
    "run, its prompt not counted, over the median call of plain decoding by the same target, as "
    "measured. Plain decoding itself is not running: the race, below, plays both."
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How many tokens plain decoding would have written in the time of the rounds shown.

    `is_in_text` says that it would be these very tokens: so it is at temperature 0.
    """

    num_tokens: int
    is_in_text: bool


def plain_pace(view: RunView, baseline: Baseline | None) -> Pace | None:
    """Return where plain decoding would be; None where that is not known, or is this run."""
    summary = view.summary
    if baseline is None or not summary.num_draft_tokens:
        return None
    is_greedy = all(result.temperature == 0 for result in view.rounds)
    speedup = measure_speedup(view.rounds, summary, baseline)
    if speedup is None:
        return Pace(int(summary.decode_s / baseline.call_s), is_greedy)
    return Pace(round(summary.num_tokens / speedup.over_link.mean), is_greedy)


def pace_html(pace: Pace | None, text: TokenText) -> str:
    """Return a line of fixed height: a caret in the text or, where texts differ, two bars."""
    if pace is None:
        return '<div class="pace"></div>'
    ours, plain = text.num_tokens, pace.num_tokens
    most = max(1, ours, plain)
    bars = "".join(
        f'<i class="{name}" style="width:{count / most:.1%}"></i>'
        for name, count in (("ours", ours), ("plain", plain))
    )
    mark = '<b class="caret"></b> ' if pace.is_in_text and plain < ours else ""
    said = f"At its measured pace plain decoding would have {plain} tokens; here are {ours}"
    if mark:
        said = f"Plain decoding would be here at its measured pace: {plain} of these {ours} tokens"
    return (
        f"{_caret_rule(text.label_after(plain)) if mark else ''}"
        f'<div class="pace" title="{escape_attribute(_MEANING)}">'
        f'<span class="said">{mark}{escape(said)}</span><span class="bars">{bars}</span></div>'
    )


def _caret_rule(label: int | None) -> str:
    if label is None:
        return ""
    where = f'.st-key-answer_text .tk[data-n="{label}"]::before'
    # As wide as nothing, so that no line is broken elsewhere as it goes on.
    caret = 'content:"";border-left:3px solid currentColor;margin:0 -1px 0 -2px'
    return f"<style>{where}{{{caret}}}</style>"


STYLE = f"""
.pace {{display: flex; align-items: center; gap: 0.75rem; height: 1.5rem; font-size: 0.8rem;
  overflow: hidden; white-space: nowrap; color: {SHADOW_TEXT}}}
.pace .said {{overflow: hidden; text-overflow: ellipsis}}
.pace .caret {{display: inline-block; border-left: 3px solid currentColor; height: 0.9rem;
  vertical-align: middle}}
.pace .bars {{flex: 1; min-width: 4rem; max-width: 14rem; display: grid; gap: 2px}}
.pace .bars i {{height: 5px; border-radius: 2px}}
.pace .ours {{background: {LOOKS[TokenStatus.ACCEPTED].color}}}
.pace .plain {{background: {SHADOW_TEXT}}}
"""
