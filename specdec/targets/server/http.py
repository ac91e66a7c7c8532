"""One server over HTTP: bounded calls, visible retries, and the key in no message.

A call ends in time whatever the server does, in an answer or in a `ServerFault`. What may pass by
itself (a refused or reset connection, 429, 5xx) is tried again a few times; the seconds this takes
are reported apart from the call that succeeded, so that they are never counted as verification.
The key lives in one object that never shows it, and is struck out of everything a server says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import requests
import urllib3
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict

from specdec.targets.server.deadline import LimitedAdapter, TimeLimit
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.faults import (
    PASSING_STATUS,
    HttpError,
    OnWait,
    PassingError,
    Quota,
    ServerFault,
    Waiting,
    error_message,
    retry_after_s,
)

MAX_ATTEMPTS = 3
MAX_WAIT_S = 60.0
FIRST_WAIT_S = 0.5
_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its JSON, the seconds of the call that brought it, and those lost before."""

    body: Any
    headers: Mapping[str, str]
    call_s: float
    retry_s: float = 0.0


class Bearer(AuthBase):
    """Puts the key into the header and shows it nowhere; without one it keeps ~/.netrc out."""

    __slots__ = ("_key",)

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def __repr__(self) -> str:
        return "Bearer(…)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("A key is not to be written anywhere.")

    def strike_out(self, content: bytes) -> bytes:
        """Return `content` without the key, also where JSON spells it in another way."""
        if self._key is not None:
            for spelling in (self._key, json.dumps(self._key)[1:-1], self._key.replace("/", r"\/")):
                content = content.replace(spelling.encode(), b"[key]")
        return content


class Connection:
    """A kept-alive connection to one endpoint, shared by its runs.

    `quota` is what the server said is left of its rate limits, None if it never did.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        key: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.endpoint = endpoint
        self.quota: Quota | None = None
        self._bearer = Bearer(key)
        self._session = requests.Session()
        self._session.auth = self._bearer
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, LimitedAdapter())
        self._sleep = sleep
        self._clock = clock

    def get(self, path: str) -> Reply:
        """Ask for `path` once.

        Raises:
            ServerFault: there is no usable answer.
        """
        try:
            return self._attempt("GET", path, None)
        except PassingError as failure:
            raise failure.error from None

    def post(self, path: str, body: Mapping[str, Any], on_wait: OnWait | None = None) -> Reply:
        """Send `body` as JSON to `path`, repeat what may pass, and return the answer.

        `on_wait` is called about once per second of waiting for another attempt; what it raises
        ends the wait.

        Raises:
            ServerFault: there is no usable answer.
        """
        began_s = self._clock()
        attempt = 1
        while True:
            asked_s = self._clock()
            try:
                reply = self._attempt("POST", path, body)
            except PassingError as failure:
                wait_s = failure.wait_s
                if wait_s is None:
                    wait_s = FIRST_WAIT_S * 2.0 ** (attempt - 1)
                if attempt == MAX_ATTEMPTS or wait_s > MAX_WAIT_S:
                    raise failure.error from None
                self._wait(wait_s, str(failure.error), attempt, on_wait)
                attempt += 1
            else:
                return reply if attempt == 1 else replace(reply, retry_s=asked_s - began_s)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
        """Send `body` and yield (seconds since sending, data) of each server-sent event.

        Raises:
            ServerFault: there is no usable answer.
        """
        asked_s = self._clock()
        try:
            with self._answer("POST", path, body) as (response, chunks):
                self._check(response, chunks)
                rest = b""
                for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data:"):
                            data = self._bearer.strike_out(line[5:].strip())
                            yield self._clock() - asked_s, data.decode("utf-8", "replace")
        except PassingError as failure:
            raise failure.error from None

    def close(self) -> None:
        self._session.close()

    def _attempt(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply:
        asked_s = self._clock()
        with self._answer(method, path, body) as (response, chunks):
            self._check(response, chunks)
            content = self._bearer.strike_out(b"".join(chunks))
        headers = CaseInsensitiveDict(response.headers)
        call_s = self._clock() - asked_s
        return Reply(self._parsed(content, headers), headers, call_s)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
        """Send a request; hand out the response and its body as it arrives."""
        endpoint = self.endpoint
        with TimeLimit(endpoint.read_timeout_s) as limit:
            try:
                # No redirects: they turn a POST into a GET and may lead the key astray.
                with self._session.request(
                    method,
                    endpoint.root + path,
                    json=body,
                    timeout=(endpoint.connect_timeout_s, endpoint.read_timeout_s),
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    self.quota = Quota.from_headers(response.headers) or self.quota
                    yield response, self._chunks(response, limit)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                if limit.is_over:
                    raise self._too_slow() from None
                self._explain(error)

    def _chunks(self, response: requests.Response, limit: TimeLimit) -> Iterator[bytes]:
        """Yield a body as it arrives; one that was broken off may look complete."""
        while chunk := response.raw.read1(1 << 20, decode_content=True):
            yield chunk
            if limit.is_over:
                break
        if limit.is_over:
            raise self._too_slow()

    def _check(self, response: requests.Response, chunks: Iterator[bytes]) -> None:
        """Raise what a status other than 200 means."""
        status = response.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            raise ServerFault(
                f"{self._who} redirects to another address; set the endpoint's URL to that one."
            )
        said = error_message(self._bearer.strike_out(b"".join(chunks)))
        error = HttpError(self._who, status, said)
        if status in PASSING_STATUS:
            raise PassingError(error, retry_after_s(response.headers))
        raise error

    def _parsed(self, content: bytes, headers: Mapping[str, str]) -> Any:
        if not content.strip():
            return None
        with suppress(ValueError, RecursionError):
            body = json.loads(content)
            if not isinstance(body, dict) or not body.get("error"):
                return body
            raise ServerFault(
                f"{self._who} answered with an error although its status was 200 "
                f"({error_message(content)}); look at its log."
            )
        if content.lstrip()[:1] == b"<" or "html" in headers.get("Content-Type", ""):
            raise ServerFault(
                f"{self._who} answered with a web page instead of JSON; check the endpoint's URL."
            )
        raise ServerFault(
            f"{self._who} answered with broken JSON ({len(content)} bytes); try again, and look "
            "at the server's log if it happens again."
        )

    def _explain(self, error: Exception) -> None:
        """Raise what a failed connection means; the library's own words may say too much."""
        words = str(error).lower()
        if isinstance(error, requests.exceptions.SSLError):
            raise ServerFault(f"{self._who} has no certificate that can be trusted.") from None
        if isinstance(error, requests.ConnectTimeout):
            sentence = f"{self._who} did not accept a connection in time; is it reachable?"
        elif "timed out" in words:
            raise self._too_slow() from None
        elif "resolve" in words:
            raise ServerFault(
                f"There is no host called {self.endpoint.host}; correct the endpoint's URL."
            ) from None
        elif "refused" in words:
            sentence = f"{self._who} refuses connections; start the server or correct its URL."
        else:
            sentence = (
                f"{self._who} closed the connection before its answer was complete; it may have "
                "crashed: look at its log."
            )
        raise PassingError(ServerFault(sentence)) from None

    def _too_slow(self) -> ServerFault:
        return ServerFault(
            f"{self._who} did not answer within {self.endpoint.read_timeout_s:g} s; draft fewer "
            "tokens, shorten the prompt, or raise the endpoint's time limit."
        )

    def _wait(self, wait_s: float, reason: str, attempt: int, on_wait: OnWait | None) -> None:
        left_s = wait_s
        while left_s > 0:
            if on_wait is not None:
                begins = left_s == wait_s
                on_wait(Waiting(reason, attempt, MAX_ATTEMPTS, left_s, begins))
            self._sleep(min(_TICK_S, left_s))
            left_s -= _TICK_S

    @property
    def _who(self) -> str:
        return f"{self.endpoint.name} ({self.endpoint.host})"
