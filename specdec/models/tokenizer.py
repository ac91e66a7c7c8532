"""Text to token ids and back, with every token's own bytes.

A thin layer over the `tokenizers` library, so that a Hugging Face folder opens without
`transformers`. Bytes are the truth: a token may be a part of a character, so text is always
decoded from a sequence of bytes and never token by token. Text is data: a user who types
"<|im_end|>" has typed ten characters, not the control token.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from specdec.errors import ModelError, SettingsError
from specdec.models.chat import ChatTemplate
from specdec.models.json_values import Values, read_json

MAX_VOCABULARY = 1 << 22
"""Ids beyond this are a damaged file's; the largest vocabularies have some hundred thousand."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # the mark that sentencepiece vocabularies put for a space


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
        self._plain = _open(tokenizer_file)
        self._plain.encode_special_tokens = True
        self._with_controls = _open(tokenizer_file)
        self._bytes = _byte_table(self._plain, tokenizer_file)
        added = self._plain.get_added_tokens_decoder()
        self._special = {index: token.content for index, token in added.items() if token.special}
        self._control_ids = {name: index for index, name in self._special.items()}
        self.strips_leading_space = _strips_leading_space(self._plain)
        self.vocab_size = len(self._bytes)
        ids = (self._plain.token_to_id(eos) if isinstance(eos, str) else eos for eos in eos_tokens)
        self.eos_token_ids = frozenset(index for index in ids if index is not None)
        self._add_bos_token = add_bos_token
        bos = (special_tokens or {}).get("bos_token")
        self._bos_id = None if bos is None else self._plain.token_to_id(bos)
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

    @cached_property
    def fingerprint(self) -> str:
        """Identify the vocabulary: SHA-256 over what every id stands for."""
        digest = hashlib.sha256()
        for index, token in enumerate(self._bytes):
            kind = b"control" if index in self._special else b"text"
            digest.update(b"%s %d " % (kind, len(token)) + token)
        return digest.hexdigest()

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of `text`, which never turn into control tokens.

        `add_special_tokens` adds what the model expects around a text (its start token, if any).
        """
        ids = _encode(self._plain, text, add_special_tokens)
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
        rendered = self._template.render(messages, list(self._control_ids))
        if not rendered.spelled_out:
            return _encode(self._with_controls, rendered.text, False)
        ids: list[int] = []
        for is_control, piece in rendered.pieces(list(self._control_ids)):
            ids += [self._control_ids[piece]] if is_control else self.encode(piece)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for (its name for a control token)."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

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
        return b"" if token_id in self._special else self.token_bytes(token_id)


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


def _open(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no tokenizer.json; save the model with a fast tokenizer first."
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises nothing narrower, and panics
        _raise_unless_library(error)
        raise ModelError(f"{path} is not a readable tokenizer: {_reason(error)}.") from error
    # Some files were saved with the limits of their training runs: a prompt must not be cut.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    try:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    except TypeError as error:  # a lone surrogate, as from a terminal with another encoding
        raise SettingsError("The text is not valid Unicode; enter it as UTF-8.") from error
    except BaseException as error:  # a vocabulary without a token for what it meets
        _raise_unless_library(error)
        raise ModelError(f"The tokenizer cannot read this text: {_reason(error)}.") from error


def _raise_unless_library(error: BaseException) -> None:
    """Raise what is no fault of the tokenizer's: its library panics with a class of its own."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _byte_table(tokenizer: tokenizers.Tokenizer, file: Path) -> list[bytes]:
    """Return the bytes of every id; holes in the numbering are empty."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    largest = max(vocabulary.values(), default=-1)
    if not 0 <= largest < MAX_VOCABULARY:
        raise ModelError(
            f"{file} gives a token the id {largest}, and ids lie between 0 and "
            f"{MAX_VOCABULARY - 1}; fetch it again."
            if vocabulary
            else f"{file} holds no tokens; fetch it again."
        )
    table = [b""] * (largest + 1)
    kinds = _component_types(tokenizer.decoder)
    if "ByteLevel" in kinds:
        alphabet = _byte_alphabet()
        for token, index in vocabulary.items():
            table[index] = b"".join(alphabet.get(char) or char.encode() for char in token)
    elif kinds & {"ByteFallback", "Metaspace"}:
        for token, index in vocabulary.items():
            byte = _BYTE_TOKEN.fullmatch(token)
            table[index] = (
                bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
            )
    else:
        raise ModelError(
            "This tokenizer is neither byte-level nor sentencepiece; choose a model whose is."
        )
    for index, added in tokenizer.get_added_tokens_decoder().items():
        table[index] = added.content.encode()
    return table


def _byte_alphabet() -> dict[str, bytes]:
    """Return GPT-2's alphabet, one printable character for each byte (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


def _strips_leading_space(tokenizer: tokenizers.Tokenizer) -> bool:
    """Say whether the space at the very start of a text is the tokenizer's own addition."""
    kinds = _component_types(tokenizer.decoder)
    return "ByteLevel" not in kinds and bool(kinds & {"Strip", "Metaspace"})


def _component_types(component: Any) -> set[str]:
    """Return the names of a tokenizer's parts, looking into sequences of them."""
    state = {} if component is None else json.loads(component.__getstate__())
    parts = [state, *state.get("decoders", [])]
    return {part["type"] for part in parts if "type" in part}


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
