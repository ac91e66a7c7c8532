"""Chat templates: messages in, the text between and around them from the model's own template.

A template is a program that came with a downloaded model, so it runs in a process of its own, in
Jinja's sandbox and within limits of time, memory and length. What a user types is data: a control
token spelled out in a message must stay plain text. Rendering therefore hides every such spelling
behind a placeholder, and `Rendered.pieces` tells the control tokens of the template apart from the
text around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specdec.errors import ModelError
from specdec.models.template_process import TEMPLATES


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation; `spelled_out` maps placeholders to what the messages said."""

    text: str
    spelled_out: Mapping[str, str]

    def pieces(self, control_tokens: Sequence[str]) -> Iterator[tuple[bool, str]]:
        """Yield `(is_control, text)` in order; only the template's own control tokens count."""
        restore = str.maketrans(dict(self.spelled_out))
        for index, piece in enumerate(re.split(f"({_any_of(control_tokens)})", self.text)):
            if piece:
                yield index % 2 == 1, piece.translate(restore)


class ChatTemplate:
    """A template with the special tokens it may name (`bos_token` and so on)."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        self._source = source
        # Absent tools and documents are None, not undefined: templates test for both.
        self._variables = {"tools": None, "documents": None, **variables}
        TEMPLATES.start()

    def render(
        self, messages: Sequence[Mapping[str, str]], control_tokens: Sequence[str]
    ) -> Rendered:
        """Render `messages` up to where the assistant's answer begins.

        Some templates take the content of a message as a text, some as a list of parts. Where what
        the user says is not in the one, the other is tried.

        Raises:
            ModelError: the template cannot be read, refuses, or leaves out what the user says.
        """
        said = "".join(text for message in messages for text in message.values())
        control = re.compile(_any_of(control_tokens))
        unused = (char for char in map(chr, range(0xE000, 0x110000)) if char not in said)
        placeholders = dict(zip(sorted(set(control.findall(said))), unused, strict=False))
        hidden = [
            {
                key: control.sub(lambda match: placeholders[match[0]], text)
                for key, text in m.items()
            }
            for m in messages
        ]
        text = self._render_whole(hidden)
        return Rendered(text, {char: spelling for spelling, char in placeholders.items()})

    def _render_whole(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the first rendering in which the user's words stand."""
        words = [m["content"].strip() for m in messages if m.get("role") == "user"]
        in_parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        refusal: ModelError | None = None
        for form in (messages, in_parts):
            try:
                text = TEMPLATES.render(
                    self._source,
                    {"messages": form, "add_generation_prompt": True, **self._variables},
                )
            except ModelError as error:
                refusal = refusal or error
                continue
            if all(word in text for word in words):
                return text
        raise refusal or ModelError(
            "The model's chat template leaves the prompt out, however it is given; choose another "
            "model, or correct the template in its folder."
        )


def _any_of(words: Sequence[str]) -> str:
    """Return a pattern for the longest of `words` at a place, or for nothing at all."""
    longest_first = sorted(filter(None, words), key=len, reverse=True)
    return "|".join(map(re.escape, longest_first)) or r"(?!)"
