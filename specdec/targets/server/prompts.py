"""A context as a server reads it: as token ids, or as a text where it takes nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer

_MAX_HELD = 3
"""A character has at most four bytes, so at most three tokens can be its beginning."""


class IdPrompt:
    """Send token ids as they are."""

    def __call__(self, context: Sequence[int]) -> tuple[list[int], int]:
        return list(context), 0


class TextPrompt:
    """Write token ids as the text that a server with the same tokenizer reads them from.

    Control tokens are spelled out, as such servers expect; a start token that the server adds by
    itself is left out. Where the ids are not what the tokenizer makes of their text, the server
    reads other ids: a run over text is never called exact. Tokens at the end that make up only
    the beginning of a character are held back.
    """

    def __init__(self, tokenizer: Tokenizer, *, adds_start_token: bool) -> None:
        self._tokenizer = tokenizer
        start = tokenizer.encode("", add_special_tokens=True)[:1] if adds_start_token else []
        self._start = start

    def __call__(self, context: Sequence[int]) -> tuple[str, int]:
        """Return the text of `context` and the number of tokens held back from its end."""
        first = len(self._start) if list(context[:1]) == self._start else 0
        pieces = [self._tokenizer.token_bytes(token_id) for token_id in context[first:]]
        for num_held in range(min(_MAX_HELD, len(pieces)) + 1):
            try:
                text = b"".join(pieces[: len(pieces) - num_held]).decode()
            except UnicodeDecodeError:
                continue
            strip = self._tokenizer.strips_leading_space
            return text.removeprefix(" ") if strip else text, num_held
        raise TargetError(
            "The text so far holds bytes that are no characters, and this server takes text only; "
            "use a server that takes token ids, or another prompt."
        )
