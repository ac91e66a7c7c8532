"""A tokenizer.json: text to ids, and every id's own bytes.

A thin layer over the `tokenizers` library. Target and draft often have the very same file; it is
read once for both, and `is` then says that two vocabularies are one.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import tokenizers

from specdec.errors import ModelError, SettingsError

MAX_VOCABULARY = 1 << 22
"""Ids beyond this are a damaged file's; the largest vocabularies have some hundred thousand."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # the mark that sentencepiece vocabularies put for a space
_OPEN: WeakValueDictionary[bytes, Vocabulary] = WeakValueDictionary()
_OPENING = threading.Lock()


def open_vocabulary(file: Path) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json, the one that is open already if it is the same.

    Raises:
        ModelError: there is no such file, it cannot be read, or it is of another kind.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        if file.is_file():
            raise ModelError(f"{file} cannot be read ({error}); fetch it again.") from error
        raise ModelError(
            f"{file.parent} has no tokenizer.json; save the model with a fast tokenizer first."
        ) from None
    digest = hashlib.sha256(content).digest()
    with _OPENING:
        found = _OPEN.get(digest)
        if found is None:
            found = _OPEN[digest] = Vocabulary(content, file)
        return found


class Vocabulary:
    """What every id stands for, and how text is cut into them.

    Attributes:
        token_bytes: of every id; holes in the numbering are empty.
        controls: names of the control tokens, by id.
        strips_leading_space: whether the space at the start of a text is the tokenizer's own.
    """

    def __init__(self, content: bytes, file: Path) -> None:
        """Read a tokenizer.json; prefer `open_vocabulary`."""
        self._engine = _read(content, file)
        self._lock = threading.Lock()
        self.token_bytes = _byte_table(self._engine, file)
        added = self._engine.get_added_tokens_decoder()
        self.controls = {index: token.content for index, token in added.items() if token.special}
        self.strips_leading_space = _strips_leading_space(self._engine)

    @cached_property
    def fingerprint(self) -> str:
        """Identify the vocabulary: SHA-256 over what every id stands for."""
        digest = hashlib.sha256()
        for index, token in enumerate(self.token_bytes):
            kind = b"control" if index in self.controls else b"text"
            digest.update(b"%s %d " % (kind, len(token)) + token)
        return digest.hexdigest()

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its name in the file."""
        return self._engine.token_to_id(token)

    def encode(
        self, text: str, *, with_controls: bool = False, add_special_tokens: bool = False
    ) -> list[int]:
        """Return the ids of a text; names of control tokens in it are such only `with_controls`."""
        try:
            with self._lock:  # one engine for both ways to read, and for every thread
                self._engine.encode_special_tokens = not with_controls
                return self._engine.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:  # a lone surrogate, as from a terminal with another encoding
            raise SettingsError("The text is not valid Unicode; enter it as UTF-8.") from error
        except BaseException as error:  # a vocabulary without a token for what it meets
            _raise_unless_library(error)
            raise ModelError(f"The tokenizer cannot read this text: {_reason(error)}.") from error


def _read(content: bytes, path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:  # the library raises nothing narrower, and panics
        _raise_unless_library(error)
        raise ModelError(f"{path} is not a readable tokenizer: {_reason(error)}.") from error
    # Some files were saved with the limits of their training runs: a prompt must not be cut.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


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
        space = next(char for char, byte in alphabet.items() if byte == b" ")
        for token, index in vocabulary.items():
            plain = token.replace(space, " ")  # most tokens are ASCII but for that
            table[index] = (
                plain.encode()
                if plain.isascii()
                else b"".join(alphabet.get(char) or char.encode() for char in token)
            )
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
