"""What a server says, made fit to be shown: no key in it, nothing that a terminal would obey.

Servers echo keys, and not only whole: shortened, masked, in base64, percent-encoded, with blanks in
between. So a key is struck out by what it contains. Letters and digits are compared, whatever their
case and whatever stands between them: a run of `_RUN` of them that the key has too, or that one of
its spellings has, is taken for a piece of it. That may strike out an innocent word of an error
message; numbers and names that decide something are never read from a redacted text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote

STRUCK = "[key]"
MAX_SHOWN = 300
_RUN = 6
_SHORTEST = 4
"""What is shorter is no secret, and is in every sentence."""
_MASKED_RUN = 2
"""A shorter piece counts beside the signs that stand for what was left out."""
_MASKS = frozenset("*•·…█#")
_MAX_READ = 20_000


class Redactor:
    """Strikes one key out of words; without a key it only makes them printable."""

    __slots__ = ("_ends", "_pieces", "_whole")

    def __init__(self, key: str | None) -> None:
        """Take the pieces of `key` by which it is known again."""
        self._pieces: dict[int, set[str]] = {}
        self._ends: tuple[str, ...] = ()
        self._whole = key or ""
        if key is None or len(key) < _SHORTEST:
            return
        for spelling, num_per_char in _spellings(key):
            letters = _letters(spelling)
            run = min(len(letters), _RUN * num_per_char)
            if run:
                pieces = self._pieces.setdefault(run, set())
                pieces.update(letters[i : i + run] for i in range(len(letters) - run + 1))
        plain = _letters(key)
        self._ends = (plain, plain[::-1])

    def __repr__(self) -> str:
        return "Redactor(…)"

    def __call__(self, text: str, limit: int = MAX_SHOWN) -> str:
        """Return `text` on one line, without the key, in at most `limit` characters."""
        struck = self.strike(text[:_MAX_READ])
        clean = " ".join("".join(map(_printable, struck)).split())
        return clean if len(clean) <= limit else clean[: limit - 1] + "…"

    def strike(self, text: str) -> str:
        """Return `text` without the key and without its pieces."""
        if not self._pieces:
            return text
        text = text.replace(self._whole, STRUCK)
        places = [index for index, character in enumerate(text) if character.isalnum()]
        letters = "".join(text[index].casefold()[:1] for index in places)
        spans = [*self._runs(letters, places), *self._masked(text)]
        return _without(text, spans)

    def _runs(self, letters: str, places: list[int]) -> Iterator[tuple[int, int]]:
        for run, pieces in self._pieces.items():
            for begin in range(len(letters) - run + 1):
                if letters[begin : begin + run] in pieces:
                    yield places[begin], places[begin + run - 1] + 1

    def _masked(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield what stands before and behind the signs that mask the rest of the key."""
        for index, character in enumerate(text):
            if character not in _MASKS and text[index : index + 3] != "...":
                continue
            before = _word_before(text, index)
            if self._begins(_letters(text[before:index]), self._ends[0]):
                yield before, index
            after = _word_after(text, index)
            if self._begins(_letters(text[index:after])[::-1], self._ends[1]):
                yield index, after

    def _begins(self, piece: str, whole: str) -> bool:
        return len(piece) >= _MASKED_RUN and whole.startswith(piece)


def _spellings(key: str) -> Iterator[tuple[str, int]]:
    """Yield what a key may look like, and how many letters of it one of the key becomes."""
    yield key, 1
    yield key[::-1], 1
    yield quote(key, safe=""), 1
    data = key.encode()
    for before in range(3):  # base64 depends on where in a group of three bytes the key begins
        encoded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        yield encoded[before + (before > 0) : len(encoded) - 1], 1
    yield data.hex(), 2
    yield "".join(f"u{byte:04x}" for byte in data), 5


def _letters(text: str) -> str:
    return "".join(character.casefold()[:1] for character in text if character.isalnum())


def _word_before(text: str, end: int) -> int:
    begin = end
    while begin and not text[begin - 1].isspace() and text[begin - 1] not in "\"'`:=(":
        begin -= 1
    return begin


def _word_after(text: str, begin: int) -> int:
    end = begin
    while end < len(text) and not text[end].isspace() and text[end] not in "\"'`,;)":
        end += 1
    return end


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return `text` with `STRUCK` in place of the spans."""
    pieces: list[str] = []
    done = 0
    for begin, end in sorted(spans):
        if begin > done or not pieces:
            pieces += [text[done:begin], STRUCK]
        elif begin == done and pieces[-1] != STRUCK:
            pieces.append(STRUCK)
        done = max(done, end)
    return "".join([*pieces, text[done:]])


def _printable(character: str) -> str:
    """Spell out what would move a cursor, turn the writing direction or break an encoding."""
    if character.isprintable() or character.isspace():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else "�"
