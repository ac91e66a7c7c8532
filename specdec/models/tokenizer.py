"""Text to token ids and back, with every token's own bytes.

The vocabulary of a Hugging Face folder and what stands around it, opened without `transformers`.
Bytes are the truth: a token may be a part of a character, so text is always decoded from a sequence
of bytes and never token by token. Text is data: a user who types "<|im_end|>" has typed ten
characters, not the control token.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path

from specdec.errors import ModelError
from specdec.models.chat import ChatTemplate
from specdec.models.json_values import Values, read_json
from specdec.models.vocabulary import MAX_VOCABULARY, open_vocabulary


class Tokenizer:
    """The tokenizer and chat template of one Hugging Face folder."""

    def __init__(
        self,
        tokenizer_file: Path,
        *,
        eos_tokens: Sequence[int | str] = (),
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        add_bos_token: bool | None = None,
    ) -> None:
        """Open `tokenizer_file`; prefer `Tokenizer.load`.

        Args:
            tokenizer_file: A tokenizer.json of the `tokenizers` library.
            eos_tokens: The tokens that end a turn, as ids or by name.
            chat_template: Jinja source, or None for a model without one.
            special_tokens: What the template may name, such as `bos_token`.
            add_bos_token: Whether a text without a template begins with the `bos_token`; None
                leaves it to the file.
        """
        self.vocabulary = vocabulary = open_vocabulary(tokenizer_file)
        self.strips_leading_space = vocabulary.strips_leading_space
        self.vocab_size = len(vocabulary.token_bytes)
        ids = (vocabulary.id_of(eos) if isinstance(eos, str) else eos for eos in eos_tokens)
        self.eos_token_ids = frozenset(index for index in ids if index is not None)
        self._add_bos_token = add_bos_token
        bos = (special_tokens or {}).get("bos_token")
        self._bos_id = None if bos is None else vocabulary.id_of(bos)
        self.has_chat_template = chat_template is not None
        self._template = (
            None if chat_template is None else ChatTemplate(chat_template, special_tokens or {})
        )

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Open the tokenizer of a Hugging Face folder."""
        settings = _read_json(folder / "tokenizer_config.json")
        special_tokens = {
            key: text
            for key, value in settings.values.items()
            if key.endswith("_token") and (text := _token_text(value)) is not None
        }
        eos_tokens: list[int | str] = []
        for name in ("config.json", "generation_config.json"):
            eos_tokens += _ends(_read_json(folder / name))
        if "eos_token" in special_tokens:
            eos_tokens.append(special_tokens["eos_token"])
        adds_bos = settings.values.get("add_bos_token")
        return cls(
            folder / "tokenizer.json",
            eos_tokens=eos_tokens,
            chat_template=_chat_template(folder, settings),
            special_tokens=special_tokens,
            add_bos_token=None if adds_bos is None else settings.flag("add_bos_token", False),
        )

    @property
    def fingerprint(self) -> str:
        """Identify the vocabulary by what every id stands for."""
        return self.vocabulary.fingerprint

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of `text`, which never turn into control tokens.

        `add_special_tokens` adds what the model expects around a text (its start token, if any).
        """
        ids = self.vocabulary.encode(text, add_special_tokens=add_special_tokens)
        if not add_special_tokens or self._add_bos_token is None or self._bos_id is None:
            return ids
        # A text never turns into control tokens, so one at its start is the file's addition.
        has_bos = ids[:1] == [self._bos_id]
        if self._add_bos_token:
            return ids if has_bos else [self._bos_id, *ids]
        return ids[1:] if has_bos else ids

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation, ready for the assistant's answer.

        A folder without a template gets the contents alone, as a text to continue.
        """
        if self._template is None:
            text = "\n".join(message["content"] for message in messages)
            return self.encode(text, add_special_tokens=True)
        controls = {name: index for index, name in self.vocabulary.controls.items()}
        rendered = self._template.render(messages, list(controls))
        if not rendered.spelled_out:
            return self.vocabulary.encode(rendered.text, with_controls=True)
        ids: list[int] = []
        for is_control, piece in rendered.pieces(list(controls)):
            ids += [controls[piece]] if is_control else self.encode(piece)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for (its name for a control token)."""
        return self.vocabulary.token_bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        r"""Return one token alone for display; parts of characters appear as \xNN."""
        return self.token_bytes(token_id).decode("utf-8", "backslashreplace")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a whole sequence; control tokens are left out."""
        stream = self.stream()
        return "".join(stream.push(ids)) + stream.rest()

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Return for each token the text that became complete with it."""
        return self.stream().push(ids)

    def stream(self) -> TokenStream:
        """Begin to decode a sequence that arrives in parts."""
        return TokenStream(self)

    def printed_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to a text: none for a control token."""
        return b"" if token_id in self.vocabulary.controls else self.token_bytes(token_id)


class TokenStream:
    """Decode token after token in constant time each; bytes of a half character wait."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_next = tokenizer.strips_leading_space

    def push(self, ids: Sequence[int]) -> list[str]:
        """Return for each new token the text that became complete with it."""
        return [self._push_bytes(self._tokenizer.printed_bytes(index)) for index in ids]

    def rest(self) -> str:
        """End the text: bytes of a character that never became whole appear as U+FFFD."""
        return self._decoder.decode(b"", final=True)

    def _push_bytes(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        if text and self._strip_next:
            self._strip_next = False
            return text.removeprefix(" ")
        return text


def _chat_template(folder: Path, settings: Values) -> str | None:
    """Return the template from its own file or from the settings, where it may have names."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read ({error}); fetch it again.") from error
    template = settings.values.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = {str(entry.get("name")): entry.get("template") for entry in entries}
    if isinstance(template, dict):
        template = template.get("default")
    if template is not None and not isinstance(template, str):
        raise ModelError(
            f"{settings.file} gives chat_template as {template!r:.60}, which is no template; "
            "fetch it again."
        )
    return template or None


def _token_text(value: object) -> str | None:
    """Return the text of a special token, which may be an object; None for what is neither."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ends(settings: Values) -> list[int]:
    """Return the ids that end a turn: one, a list, or none.

    Raises:
        ModelError: what stands there is no token id; a run would not end where it should.
    """
    eos = settings.values.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    for index in ends:
        if not isinstance(index, int) or isinstance(index, bool) or index >= MAX_VOCABULARY:
            raise ModelError(
                f"{settings.file} gives eos_token_id as {eos!r:.60}, which is no token id; correct "
                "it or fetch the folder again."
            )
    return [index for index in ends if index >= 0]  # −1 stands for none


def _read_json(path: Path) -> Values:
    """Return the values in a JSON file, none where there is no such file."""
    return Values(path, read_json(path) if path.is_file() else {})
