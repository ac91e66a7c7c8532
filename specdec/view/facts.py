"""What can be said about one token, in words: the tooltip of the tree and of the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from specdec.records import TokenRecord, TopToken

TextOf = Callable[[int], str]
"""Token id → the text to show for it alone."""

NUM_ALTERNATIVES = 3
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: "␡"}
"""What to show for control characters, for `str.translate`."""


def visible(text: str) -> str:
    r"""Return `text` with the white space made visible that would not show: ␣ ↵ ⇥."""
    shown = text.replace("\n", "↵").replace("\t", "⇥").translate(CONTROL_PICTURES)
    if shown != shown.strip():
        lead = len(shown) - len(shown.lstrip())
        tail = len(shown.rstrip())
        shown = "␣" * lead + shown[lead:tail] + "␣" * (len(shown) - max(tail, lead))
    return shown or "∅"


def token_facts(record: TokenRecord, round_number: int, text_of: TextOf) -> str:
    """Return everything known about a token in a few lines; rounds are counted from 1."""
    return "\n".join(_lines(record, round_number, text_of))


def _lines(record: TokenRecord, round_number: int, text_of: TextOf) -> Iterator[str]:
    token = visible(text_of(record.token_id))
    yield f"“{token}” {record.status}, round {round_number}, position {record.position + 1}"
    if record.drafted_by:
        yield f"drafted by {record.drafted_by}"
    sides = [
        _side("draft q", record.draft_prob, record.draft_logprob),
        _side("target p", record.target_prob, record.target_logprob),
    ]
    if any(sides):
        yield " · ".join(filter(None, sides))
    if record.acceptance_prob is not None and record.uniform is not None:
        sign = "<" if record.uniform < record.acceptance_prob else "≥"
        chance = "min(1, p/q)" if is_ratio(record) else "its chance to pass"
        yield (
            f"test: drawn u = {record.uniform:.3f} {sign} {chance} = {record.acceptance_prob:.3f}"
        )
    entropies = [
        f"{side} {entropy:.2f}"
        for side, entropy in (("draft", record.draft_entropy), ("target", record.target_entropy))
        if entropy is not None
    ]
    if entropies:
        yield f"entropy in nats: {', '.join(entropies)}"
    alternatives = _alternatives(record.top_tokens, text_of)
    if alternatives:
        yield alternatives


def is_ratio(record: TokenRecord) -> bool:
    """Say whether the token was tested by p/q itself.

    A later sibling is tested by what its elders left of p, and a block by the chain as a whole.
    """
    p, q, chance = record.target_prob, record.draft_prob, record.acceptance_prob
    if p is None or not q or chance is None:
        return False
    return math.isclose(chance, min(1.0, p / q), rel_tol=1e-6, abs_tol=1e-9)


def _side(name: str, prob: float | None, logprob: float | None) -> str:
    """Say a probability as tested and the model's own log-probability."""
    if prob is None and logprob is None:
        return ""
    own = "" if logprob is None else f" (log-probability {logprob:.2f})"
    return f"{name} = {'–' if prob is None else f'{prob:.3f}'}{own}"


def _alternatives(top_tokens: Sequence[TopToken], text_of: TextOf) -> str:
    """Name the target's likeliest tokens, or the draft's before the target has answered."""
    sides = {
        "target": [(top.target_logprob, top.token_id) for top in top_tokens],
        "draft": [(top.draft_logprob, top.token_id) for top in top_tokens],
    }
    for side, entries in sides.items():
        known = sorted(((p, i) for p, i in entries if p is not None), reverse=True)
        if known:
            named = (f"“{visible(text_of(i))}” {p:.2f}" for p, i in known[:NUM_ALTERNATIVES])
            return f"likeliest for the {side}: {', '.join(named)}"
    return ""
