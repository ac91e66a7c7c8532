"""What failures of a server mean: its errors as one sentence, its wishes to wait, what is left.

Servers word errors in at least five shapes: {"error": {"message": …}}, {"error": "…"},
{"message": …}, {"detail": …}, plain text. All are read; a web page is not quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from specdec.errors import TargetError
from specdec.targets.server.body import ERROR_BYTES
from specdec.targets.server.reader import Limits, Show, Unreadable, parse

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_UNITS_S |= {"μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|us|µs|μs|ns|d|h|m|s)")
_DURATION = re.compile(f"(?:{_PART.pattern}){{1,8}}")
_SINCE_1970 = 1e9
"""A larger number of seconds is no wait but a moment, counted from 1970."""
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""HTTP codes that a later attempt may not meet."""


class ServerFault(TargetError):
    """The server is away, too slow, or answers what is no answer."""


class HttpError(ServerFault):
    """The server refused a request; `status` is its code, `said` its own words."""

    def __init__(self, who: str, status: int, said: str) -> None:
        words = f"HTTP {status}: {said}" if said else f"HTTP {status}"
        super().__init__(f"{who} {_meaning(status)} ({words}).")
        self.status = status
        self.said = said


class PassingError(Exception):
    """A failure that may pass by itself; `error` is what to raise if it does not.

    `wait_s` is the wait that the server asks for, None if it asks for none.
    """

    def __init__(self, error: ServerFault, wait_s: float | None = None) -> None:
        self.error = error
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Waiting:
    """Attempt number `attempt` failed and is about to be repeated.

    Told about once per second of the wait; `begins` the first time.
    """

    reason: str
    attempt: int
    max_attempts: int
    remaining_s: float
    begins: bool = False

    def __str__(self) -> str:
        return (
            f"{self.reason} Attempt {self.attempt + 1} of {self.max_attempts} follows in "
            f"{self.remaining_s:.1f} s."
        )


OnWait = Callable[[Waiting], None]


@dataclass(frozen=True, slots=True)
class Quota:
    """What the rate-limit headers say is left, as in {"requests-minute": 4}."""

    remaining: Mapping[str, float]

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], show: Show = str) -> Quota | None:
        remaining = {}
        for name, value in headers.items():
            match = re.fullmatch(r"x-ratelimit-remaining-([a-z-]{1,40})", name.lower())
            if match and _NUMBER.fullmatch(value):
                remaining[show(match[1])] = float(value)
        return cls(remaining) if remaining else None

    def __str__(self) -> str:
        words = [f"{n:,.0f} {name.replace('-', ' per ')}" for name, n in self.remaining.items()]
        return ", ".join(words) + " left"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, None if it does not say.

    Where `Retry-After` is missing, an exhausted limit says when it is filled again.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        wait_s = _wait_s(headers.get(name, ""), unit_s)
        if wait_s is not None:
            return wait_s
    quota = Quota.from_headers(headers)
    exhausted = [name for name, left in quota.remaining.items() if not left] if quota else []
    waits_s = (_wait_s(headers.get(f"x-ratelimit-reset-{name}", "")) for name in exhausted)
    return max((wait_s for wait_s in waits_s if wait_s is not None), default=None)


def _wait_s(value: str, unit_s: float = 1.0) -> float | None:
    """Read "2.5", "120ms", "6m0s", a date or a time since 1970 as seconds from now."""
    value = value.strip()
    now = datetime.now(UTC)
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number < _SINCE_1970:
            return number * unit_s
        return max(0.0, number / (1e3 if number > 1e3 * _SINCE_1970 else 1.0) - now.timestamp())
    if value and _DURATION.fullmatch(value):
        return sum(float(n) * _UNITS_S[unit] for n, unit in _PART.findall(value))
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            return max(0.0, (read(value) - now).total_seconds())
        except (TypeError, ValueError, IndexError, OverflowError):
            continue
    return None


def error_message(content: bytes, show: Show = str) -> str:
    """Return what an error body says, fit to be shown by `show`; nothing for a web page."""
    try:
        return parse(content, Limits(ERROR_BYTES, ERROR_BYTES), show).words()
    except Unreadable:
        text = content[:ERROR_BYTES].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else show(text).rstrip(".")


def _meaning(status: int) -> str:
    meanings = {
        401: "did not accept the API key; check the variable that holds it",
        402: "asks for payment; look at your account with it",
        403: "does not allow this with this API key; check its rights",
        404: "knows no such model or address; check the endpoint's model and URL",
        413: "finds the request too large; shorten the prompt or draft fewer tokens",
        429: "allows no more requests for now; wait a while",
    }
    failed = "failed; look at its log" if status >= 500 else "rejected the request"
    return meanings.get(status, failed)
