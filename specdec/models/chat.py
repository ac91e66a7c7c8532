"""Chat templates: messages in, the text between and around them from the model's own template.

A template is a program that came with a downloaded model, so it runs in Jinja's sandbox. What a
user types is data: a control token spelled out in a message must stay plain text. Rendering
therefore hides every such spelling behind a placeholder, and `Rendered.pieces` tells the control
tokens of the template apart from the text around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from specdec.errors import ModelError


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
    """A compiled template with the special tokens it may name (`bos_token` and so on)."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        # Jinja's own filter escapes HTML, which the models were not trained on.
        environment.filters["tojson"] = _to_json
        # Absent tools and documents are None, not undefined: templates test for both.
        self._variables = {"tools": None, "documents": None, **variables}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"The model's chat template cannot be read: {error}.") from error

    def render(
        self, messages: Sequence[Mapping[str, str]], control_tokens: Sequence[str]
    ) -> Rendered:
        """Render `messages` up to where the assistant's answer begins."""
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
        try:
            text = self._template.render(
                messages=hidden, add_generation_prompt=True, **self._variables
            )
        except Exception as error:  # the template is a foreign program
            raise ModelError(f"The model's chat template refuses the prompt: {error}.") from error
        return Rendered(text, {char: spelling for spelling, char in placeholders.items()})


def _any_of(words: Sequence[str]) -> str:
    """Return a pattern for the longest of `words` at a place, or for nothing at all."""
    longest_first = sorted(filter(None, words), key=len, reverse=True)
    return "|".join(map(re.escape, longest_first)) or r"(?!)"


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)
