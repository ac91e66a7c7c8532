"""Frozen values to JSON and back, by their annotations, to the last bit of every float.

JSON has no infinities and no NaN; they travel as the strings "inf", "-inf" and "nan". What comes
back is checked field by field: files may come from anywhere. Unknown fields are passed over and
missing ones take their default, so that a file outlives the addition of a field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from specdec.errors import SettingsError, TraceError

Decode = Callable[[Any, str], Any]
"""(JSON value, the name to call it by in an error) → value."""

MAX_INT = 2**63 - 1
_NON_FINITE = ("inf", "-inf", "nan")


# -- to JSON -------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Return `value` as what `json.dumps` takes: dataclasses become objects, tuples arrays."""
    if isinstance(value, float):  # by far the most frequent
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return {name: to_json(getattr(value, name)) for name in _field_names(value.__class__)}


def dumps(value: Mapping[str, Any]) -> str:
    """Return one line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    assert is_dataclass(kind), kind
    return tuple(field.name for field in fields(kind))


# -- from JSON -----------------------------------------------------------------------------------


def from_json(kind: Any, value: Any, name: str) -> Any:
    """Return `value` as a `kind`; `name` is what an error calls it.

    Raises:
        TraceError: the value is not one.
    """
    return decoder(kind)(value, name)


def loads(line: str | bytes) -> Any:
    """Return what one JSON text holds.

    Raises:
        TraceError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(line)
    except RecursionError:
        raise TraceError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        place = f"{error.msg}: character {error.pos + 1}"
        raise TraceError(f"it is not JSON, or cut off ({place})") from None
    except ValueError:
        raise TraceError("it is not JSON in UTF-8, or holds a number of too many digits") from None


@cache
def decoder(kind: Any) -> Decode:
    """Return the function that checks and builds a `kind`, made once from its annotations."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return _optional(decoder(inner))
    if origin is tuple:
        return _array(decoder(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(*arguments)
    if kind in _SCALARS:
        return _SCALARS[kind]
    return _choice(kind) if issubclass(kind, Enum) else _object(kind)


def _wrong(name: str, wanted: str, value: Any) -> TraceError:
    shown = repr(value)
    return TraceError(f"{name} must be {wanted}, not {shown[:40]}{'…' * (len(shown) > 40)}")


def _integer(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INT:
        raise _wrong(name, "a whole number of at most 64 bits", value)
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT:
        return float(value)
    if isinstance(value, str) and value in _NON_FINITE:
        return float(value)
    raise _wrong(name, "a number", value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TraceError(f"{name} is not valid Unicode") from None
    return value


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


_SCALARS: dict[type, Decode] = {int: _integer, float: _number, str: _text, bool: _boolean}


def _optional(inner: Decode) -> Decode:
    return lambda value, name: None if value is None else inner(value, name)


def _array(inner: Decode) -> Decode:
    def decode(value: Any, name: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(name, "an array", value)
        return tuple([inner(item, name) for item in value])

    return decode


def _mapping(key_kind: type, value_kind: type) -> Decode:
    inner = decoder(value_kind)

    def decode(value: Any, name: str) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise _wrong(name, "an object", value)
        return {_text(key, name): inner(item, name) for key, item in value.items()}

    assert key_kind is str
    return decode


def _choice(kind: type[Enum]) -> Decode:
    def decode(value: Any, name: str) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise _wrong(name, "one of " + ", ".join(str(k.value) for k in kind), value) from None

    return decode


def _object(kind: type) -> Decode:
    hints = get_type_hints(kind)
    plan = [(f.name, decoder(hints[f.name]), f.default) for f in fields(kind)]

    def decode(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(name, "an object", value)
        arguments = []
        for key, inner, default in plan:
            item = value.get(key, MISSING)
            if item is not MISSING:
                arguments.append(inner(item, key))
            elif default is not MISSING:
                arguments.append(default)
            else:
                raise TraceError(f"{key} is missing")
        try:
            return kind(*arguments)
        except SettingsError as error:
            raise TraceError(str(error)) from None

    return decode
