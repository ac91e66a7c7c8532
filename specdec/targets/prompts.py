"""A context as a text, for servers that do not take token ids."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer


class TextPrompt:
    """Write token ids as the text that a server with the same tokenizer reads them from.

    Control tokens are spelled out, as such servers expect; a start token that the server adds by
    itself is left out. Where the ids are not what the tokenizer makes of their text, the server
    reads other ids: a run over text is never called exact.
    """

    def __init__(self, tokenizer: Tokenizer, *, adds_start_token: bool) -> None:
        self._tokenizer = tokenizer
        start = tokenizer.encode("", add_special_tokens=True)[:1] if adds_start_token else []
        self._start = start

    def __call__(self, context: Sequence[int]) -> str:
        first = len(self._start) if list(context[:1]) == self._start else 0
        pieces = [self._tokenizer.token_bytes(token_id) for token_id in context[first:]]
        try:
            text = b"".join(pieces).decode()
        except UnicodeDecodeError:
            raise TargetError(
                "The text so far ends inside a character, and this server takes whole text only; "
                "use a server that takes token ids, or another prompt."
            ) from None
        return text.removeprefix(" ") if self._tokenizer.strips_leading_space else text
