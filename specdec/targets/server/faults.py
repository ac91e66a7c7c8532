"""What failures of a server mean: its errors as one sentence, its wishes to wait, what is left.

Servers word errors in at least five shapes: {"error": {"message": …}}, {"error": "…"},
{"message": …}, {"detail": …}, plain text. All are read; a web page is not quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from specdec.errors import TargetError

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
    def from_headers(cls, headers: Mapping[str, str]) -> Quota | None:
        remaining = {}
        for name, value in headers.items():
            match = re.fullmatch(r"x-ratelimit-remaining-([a-z-]+)", name.lower())
            if match and re.fullmatch(r"\d+(\.\d+)?", value):
                remaining[match[1]] = float(value)
        return cls(remaining) if remaining else None

    def __str__(self) -> str:
        words = [f"{n:,.0f} {name.replace('-', ' per ')}" for name, n in self.remaining.items()]
        return ", ".join(words) + " left"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, None if it does not say.

    Where `Retry-After` is missing, an exhausted limit says when it is filled again.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) * unit_s
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            continue
    quota = Quota.from_headers(headers)
    exhausted = [name for name, left in quota.remaining.items() if not left] if quota else []
    resets = [headers.get(f"x-ratelimit-reset-{name}", "") for name in exhausted]
    return max((float(s) for s in resets if re.fullmatch(r"\d+(\.\d+)?", s)), default=None)


def error_message(content: bytes) -> str:
    """Return what an error body says, in at most 300 characters; nothing for a web page."""
    text = content.decode("utf-8", "replace").strip()
    try:
        said = json.loads(text)
    except ValueError:
        return "" if text.startswith("<") else _shortened(text)
    if isinstance(said, dict):
        said = said.get("error") or said.get("message") or said.get("detail") or said
    if isinstance(said, dict):
        said = said.get("message") or said
    return _shortened(said if isinstance(said, str) else json.dumps(said))


def _shortened(text: str, limit: int = 300) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
