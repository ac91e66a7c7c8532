"""JSON of a server as checked values; nothing else touches what came over the wire.

`parse` bounds what parsing may cost, `Value` is a place in the answer. Whoever wants something of
it says what it should be (a text, a whole number within bounds, a log-probability) and gets that,
or a `Misshapen` that names the place. What a server may leave out or get wrong without harm is
asked for by `count` and `seconds`, which give None for nonsense.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from specdec.errors import TargetError

MAX_TOKEN_ID = 2**31 - 1
_MAX_COUNT = 10**9
_MAX_S = 1e6
_ID_NAME = re.compile(r"token_id:([0-9]{1,10})")
_IMPOSSIBLE = -9998.0
"""vLLM writes −9999 for −∞, others the lowest number of their type."""
_ROUNDING = 1e-3

Show = Callable[[str], str]


class Misshapen(TargetError):
    """An answer has not the shape its kind of server is known for."""


class Unreadable(Exception):
    """A body is not JSON, or costs more than the request can need; the message says which."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer may hold: its bytes after decompression, and its JSON values."""

    num_bytes: int
    num_values: int


def parse(content: bytes, limits: Limits, show: Show = str) -> Value:
    """Return the JSON in `content`; nothing at all is null.

    Args:
        content: a whole body or a whole event.
        limits: what it may hold.
        show: makes words of the server fit to be shown.

    Raises:
        Unreadable: it is not JSON, is nested too deeply, or holds too much.
    """
    if len(content) > limits.num_bytes:
        raise Unreadable("too large")
    if len(content) > limits.num_values and _holds_more(content, limits.num_values):
        raise Unreadable("too many values")
    if not content.strip():
        return Value(None, show)
    try:
        return Value(json.loads(content), show)
    except (ValueError, RecursionError):
        raise Unreadable("broken JSON") from None


def _holds_more(content: bytes, num_values: int) -> bool:
    """Say whether `content` holds more values than that; commas within a text count as well."""
    return sum(map(content.count, (b",", b"[", b"{"))) > num_values


class Value:
    """One place in an answer; `path` leads to it from the top."""

    __slots__ = ("_path", "_raw", "_show")

    def __init__(self, raw: Any, show: Show = str, path: tuple[Any, ...] = ()) -> None:
        self._raw = raw
        self._show = show
        self._path = path

    def __repr__(self) -> str:
        return f"Value({self.place})"

    @property
    def place(self) -> str:
        """Name the place, as in choices[0].index."""
        steps, path = [], self._path
        while path:
            path, step = path
            steps.append(f"[{step}]" if isinstance(step, int) else f".{self._show(step)}")
        return "".join(reversed(steps)).removeprefix(".") or "the whole"

    def __getitem__(self, name: str) -> Value:
        """Return the field `name` of an object."""
        if not isinstance(self._raw, dict):
            raise self.misshapen("an object")
        if name not in self._raw:
            raise self._child(name, None).misshapen("something")
        return self._child(name, self._raw[name])

    def get(self, *names: str) -> Value:
        """Follow fields as far as there are objects; what is not there is null."""
        value = self
        for name in names:
            raw = value._raw.get(name) if isinstance(value._raw, dict) else None
            value = value._child(name, raw)
        return value

    def __bool__(self) -> bool:
        """Say whether there is anything: null, "", 0, [] and {} are nothing."""
        return bool(self._raw)

    @property
    def is_null(self) -> bool:
        return self._raw is None

    @property
    def is_list(self) -> bool:
        return isinstance(self._raw, list)

    @property
    def is_object(self) -> bool:
        return isinstance(self._raw, dict)

    def has(self, name: str) -> bool:
        """Say whether this is an object with a field `name`."""
        return isinstance(self._raw, dict) and name in self._raw

    def items(self) -> list[Value]:
        """Return the items of a list."""
        if not isinstance(self._raw, list):
            raise self.misshapen("a list")
        return [Value(raw, self._show, (self._path, i)) for i, raw in enumerate(self._raw)]

    def fields(self) -> Iterator[tuple[str, Value]]:
        """Yield the fields of an object."""
        if not isinstance(self._raw, dict):
            raise self.misshapen("an object")
        for name, raw in self._raw.items():
            yield name, Value(raw, self._show, (self._path, name))

    def text(self) -> str:
        """Return a text; it is the server's word, so show it by `shown` only."""
        if not isinstance(self._raw, str):
            raise self.misshapen("a text")
        return self._raw.encode("utf-8", "replace").decode()  # half a surrogate pair is no text

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        if type(self._raw) is not int or not low <= self._raw <= high:
            raise self.misshapen(f"a whole number from {low} to {high}")
        return self._raw

    def token_id(self) -> int:
        return self.integer(0, MAX_TOKEN_ID)

    def logprob(self) -> float:
        """Return a log-probability in nats; −∞, and what servers write for it, is −∞."""
        raw = self._raw
        if type(raw) not in (int, float) or raw != raw:
            raise self.misshapen("a log-probability")
        if raw > _ROUNDING:
            raise TargetError(
                f"The server returned the positive log-probability {self.shown()}; "
                "it does not return real log-probabilities."
            )
        if type(raw) is int and raw < -(10**40):
            raise self.misshapen("a log-probability")  # no type of number has it
        return float(raw) if raw > _IMPOSSIBLE else -math.inf

    def count(self, high: int = _MAX_COUNT) -> int | None:
        """Return a number of things from 1 to `high`, None where there is none or nonsense."""
        raw = self._raw
        if type(raw) is float and raw.is_integer():
            raw = int(raw)
        return raw if type(raw) is int and 1 <= raw <= high else None

    def seconds(self) -> float | None:
        """Return a time, None where there is none or nonsense."""
        raw = self._raw
        return float(raw) if type(raw) in (int, float) and 0 <= raw <= _MAX_S else None

    def shown(self) -> str:
        """Return the value as it may stand in a sentence."""
        if isinstance(self._raw, str):
            return self._show(self._raw)
        if type(self._raw) is int and abs(self._raw) > 10**15:
            return "a number of very many digits"
        try:
            return self._show(json.dumps(self._raw, ensure_ascii=False))
        except (ValueError, RecursionError):  # as deep as it can be read, but not written
            return "a list" if self.is_list else "an object"

    def words(self) -> str:
        """Return what an error says, in any of the shapes that servers use; "" for nothing."""
        said = self
        for names in (("error", "message", "detail"), ("message", "detail", "error")):
            if not said.is_object:
                break
            said = next((said.get(name) for name in names if said.get(name)), said)
        if said.is_list and said.items():
            return said.items()[0].words()
        said = next((said.get(name) for name in ("msg", "type") if said.get(name)), said)
        return "" if said.is_null else said.shown().rstrip(".")

    def misshapen(self, wanted: str) -> Misshapen:
        """Say what should stand here."""
        found = "a list" if self.is_list else "an object" if self.is_object else self.shown()
        found = "nothing" if self.is_null else found
        return Misshapen(
            "The server's answer has not the shape its kind of server is known for "
            f"({self.place} is {found}, where {wanted} should stand); check the endpoint's "
            "server setting."
        )

    def _child(self, name: str, raw: Any) -> Value:
        return Value(raw, self._show, (self._path, name))


def named_id(name: str) -> int | None:
    """Return the id in "token_id:123"; None for any other name.

    Raises:
        Misshapen: it begins like one, but no token can have this id.
    """
    if not name.startswith("token_id:"):
        return None
    found = _ID_NAME.fullmatch(name)
    if found is None or int(found[1]) > MAX_TOKEN_ID:
        raise Misshapen(
            "The server names a token by an id that none can have; check the endpoint's server "
            "setting."
        )
    return int(found[1])
