"""The answer as HTML: each token a span coloured by how it came to be.

Everything a model wrote is escaped here, in one function, and the result goes to `st.html`, which
runs no script; nowhere does model text meet Markdown. Finished chunks never change again, so each
update costs the same at token 1,000 as at token 10. Each token is a radio button in disguise:
one stop for the Tab key, then arrow keys from token to token, without a line of JavaScript. The
buttons float at no size: they break no word and, unlike positioned ones, cost no layer each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from html import escape

from specdec.records import Drafted, TokenRecord, TokenStatus
from specdec.view.facts import CONTROL_PICTURES, TextOf, token_facts, visible
from specdec.view.palette import LOOKS, SHADOW_TEXT

CHUNK_TOKENS = 100
SHOWN_CONTROLS = {code: sign for code, sign in CONTROL_PICTURES.items() if chr(code) not in "\n\t"}
WORD_JOINER = "\u2060"
PICTURE_PX = 620
"""How wide a tree is drawn at least: about its column's width on a small laptop."""
HALF_CHARACTER = "\\x"
"""How the display text of a token begins whose bytes are only a part of a character."""


class TokenText:
    """Builds the text of a run round by round."""

    def __init__(self, text_of: TextOf) -> None:
        self.chunks: list[str] = []
        """Finished HTML, each of about `CHUNK_TOKENS` tokens."""
        self.plain = ""
        self.num_tokens = 0
        self._text_of = text_of
        self._open: list[str] = []
        self._waiting: list[str] = []
        self._ends: list[int] = []

    def push(
        self, records: Sequence[TokenRecord], pieces: Sequence[str], round_number: int
    ) -> None:
        """Append one round's tokens; a token whose character is not complete waits for the rest.

        Args:
            records: the emitted tokens.
            pieces: the text that became complete with each.
            round_number: counted from 1.
        """
        for record, piece in zip(records, pieces, strict=True):
            self.num_tokens += 1
            facts = token_facts(record, round_number, self._text_of)
            if piece:
                facts = "\n\n".join([*self._waiting, facts])
                self._waiting.clear()
                self._append(piece, record.status, facts)
            elif (token := self._text_of(record.token_id)).startswith(HALF_CHARACTER):
                self._waiting.append(facts)
            else:
                self._open.append(_mark(token, facts, self._number()))
            self.plain += piece

    def end(self, rest: str) -> None:
        """Append what is left of a half character."""
        if rest:
            self._append(rest, TokenStatus.BONUS, "\n\n".join(self._waiting))
            self.plain += rest

    def tail(self, pending: Drafted | None = None) -> str:
        """Return the HTML after `chunks`: the open chunk, and the draft that is being verified."""
        ghosts = ""
        if pending is not None:
            ghosts = "".join(
                _span(
                    self._text_of(candidate.token_id),
                    candidate.status,
                    token_facts(candidate, pending.round + 1, self._text_of),
                )
                for candidate in _first_chain(pending.candidates)
            )
        return "".join(self._open) + ghosts

    def label_after(self, num_tokens: int) -> int | None:
        """Return the number, the `data-n`, of the first label behind so many tokens."""
        place = bisect_right(self._ends, num_tokens)
        return self._ends[place] if place < len(self._ends) else None

    def _number(self) -> int:
        """Return the number of the next label: that of the last token in it."""
        self._ends.append(self.num_tokens)
        return self.num_tokens

    def _append(self, piece: str, status: TokenStatus, facts: str) -> None:
        self._open.append(_span(piece, status, facts, self._number()))
        if len(self._open) >= CHUNK_TOKENS:
            self.chunks.append("".join(self._open))
            self._open.clear()


def _first_chain(candidates: Sequence[TokenRecord]) -> list[TokenRecord]:
    """Return the path of first children: the draft's own first choice at each position."""
    chain: list[TokenRecord] = []
    node = -1
    for index, candidate in enumerate(candidates):
        if candidate.parent == node:
            chain.append(candidate)
            node = index
    return chain


def _span(text: str, status: TokenStatus, facts: str, number: int | None = None) -> str:
    numbered = "" if number is None else f' data-n="{number}"'
    return (
        f'<label class="tk {status}"{numbered} data-f="{escape_attribute(facts)}">'
        f'<input type="radio" name="tk">{escape(text.translate(SHOWN_CONTROLS))}</label>'
    )


def _mark(token: str, facts: str, number: int) -> str:
    """Return a control token: shown as a mark, no part of the text."""
    return (
        f'<label class="tk mark" data-n="{number}" data-f="{escape_attribute(facts)}">'
        f'<input type="radio" name="tk">{escape(visible(token))}</label>'
    )


def escape_attribute(text: str) -> str:
    """Escape for an attribute; a word joiner after each `<` keeps sanitizers from dropping it."""
    return escape(text.replace("<", "<" + WORD_JOINER)).replace("\n", "&#10;")


def _status_rules() -> str:
    rules = []
    for status, look in LOOKS.items():
        line = "line-through" if look.underline == "line-through" else "underline"
        style = "solid" if look.underline == "line-through" else look.underline
        rules.append(
            f".tk.{status}{{background:{look.color}{look.tint};"
            f"text-decoration:{line} {style} {look.color} 1px}}"
        )
    return "\n".join(rules)


STYLE = f"""
.st-key-answer {{position: relative; padding: 0.4rem 0.75rem}}
.st-key-answer_text, .st-key-race_0, .st-key-race_1 {{display: block; white-space: pre-wrap;
  unicode-bidi: plaintext; overflow-wrap: anywhere; line-height: 1.8}}
.st-key-answer_text div, .st-key-race_0 div, .st-key-race_1 div {{display: inline;
  position: static}}
.tk {{text-underline-offset: 3px; border-radius: 3px; cursor: default; display: inline}}
.tk input {{float: left; appearance: none; width: 0; height: 0; margin: 0; border: 0; outline: none;
  pointer-events: none}}
/* A shadow, as an outline goes round the floating button too; it shows in forced colours only. */
.tk:hover, .tk:focus-within {{box-shadow: 0 0 0 2px currentColor; outline: 2px solid transparent}}
.tk.mark {{border: 1px solid {LOOKS[TokenStatus.DISCARDED].color}; font-size: 0.75em;
  padding: 0 4px; margin-left: 4px; user-select: none}}
.tk:hover::after, .tk:focus-within::after {{content: attr(data-f); position: absolute;
  left: 0; right: 0; bottom: 100%; max-height: 9rem; overflow: hidden; white-space: pre-line;
  unicode-bidi: plaintext; font-size: 0.85rem; line-height: 1.3; text-decoration: none;
  padding: 0.5rem 0.75rem; border-radius: 0.4rem; border: 1px solid {SHADOW_TEXT};
  background: Canvas; color: CanvasText; pointer-events: none; z-index: 10}}
.st-key-answer:has(.tk:hover) .tk:focus-within:not(:hover)::after {{display: none}}
.st-key-live_tree, .st-key-final_tree {{overflow-x: auto}}
.st-key-live_tree {{direction: rtl}}  /* where it has to be scrolled, its newest end is seen */
.st-key-live_tree iframe, .st-key-final_tree iframe {{min-width: {PICTURE_PX}px}}
.st-key-race_1 .tk {{background: none; text-decoration: none}}
.legend {{display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; font-size: 0.85rem}}
.legend .sign {{cursor: help}}
{_status_rules()}
"""
