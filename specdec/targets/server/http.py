"""One server over HTTP: bounded calls, visible retries, and the key in no message.

A call ends in time whatever the server does, in an answer or in a `ServerFault`. What may pass by
itself (a refused or reset connection, 429, 5xx) is tried again a few times; the seconds this takes
are reported apart from the call that succeeded, so that they are never counted as verification.
The key lives in objects that never show it, and is struck out of every word of a server that may
be shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any

import requests
import urllib3
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict

from specdec.targets.server.body import (
    ERROR_BYTES,
    LISTING,
    Oversized,
    Undecodable,
    limits_of,
    read_body,
)
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
from specdec.targets.server.reader import Limits, Unreadable, Value, parse
from specdec.targets.server.redaction import Redactor
from specdec.targets.server.route import Route

MAX_ATTEMPTS = 3
MAX_WAIT_S = 60.0
FIRST_WAIT_S = 0.5
_TICK_S = 1.0
_GATEWAY_STATUS = {407, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: what it says, the seconds of the call that brought it, and those lost before."""

    body: Value
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


class Connection:
    """A kept-alive connection to one endpoint, shared by its runs.

    `quota` is what the server said is left of its rate limits, None if it never did. `show` makes
    words of the server fit to be shown; every value of an answer shows itself by it.
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
        self.show = Redactor(key)
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
            return self._attempt("GET", path, None, LISTING, self.endpoint.read_timeout_s)
        except PassingError as failure:
            raise failure.error from None

    def get_text(self, path: str) -> str:
        """Ask once for `path`, which answers in plain text.

        Raises:
            ServerFault: there is no usable answer.
        """
        limit_s = self.endpoint.read_timeout_s
        try:
            with self._answer("GET", path, None, LISTING, limit_s) as (_, chunks):
                return b"".join(chunks).decode("utf-8", "replace")
        except PassingError as failure:
            raise failure.error from None

    def post(self, path: str, body: Mapping[str, Any], on_wait: OnWait | None = None) -> Reply:
        """Send `body` as JSON to `path`, repeat what may pass, and return the answer.

        All attempts together have the endpoint's time limit, without the waits between them.
        `on_wait` is called about once per second of waiting for another attempt; what it raises
        ends the wait.

        Raises:
            ServerFault: there is no usable answer.
        """
        limits = limits_of(body)
        began_s = self._clock()
        left_s = self.endpoint.read_timeout_s
        attempt = 1
        while True:
            asked_s = self._clock()
            try:
                reply = self._attempt("POST", path, body, limits, left_s)
            except PassingError as failure:
                left_s -= self._clock() - asked_s
                wait_s = failure.wait_s
                if wait_s is None:
                    wait_s = FIRST_WAIT_S * 2.0 ** (attempt - 1)
                if attempt == MAX_ATTEMPTS or wait_s > MAX_WAIT_S or left_s <= 0:
                    raise failure.error from None
                self._wait(wait_s, str(failure.error), attempt, on_wait)
                attempt += 1
            else:
                return reply if attempt == 1 else replace(reply, retry_s=asked_s - began_s)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, Value]]:
        """Send `body` and yield (seconds since sending, data) of each server-sent event.

        The event [DONE] ends the stream.

        Raises:
            ServerFault: there is no usable answer.
        """
        asked_s = self._clock()
        limits = limits_of(body)
        limit_s = self.endpoint.read_timeout_s
        try:
            with self._answer("POST", path, body, limits, limit_s) as (_, chunks):
                for line in _lines(chunks):
                    data = line[5:].strip() if line.startswith(b"data:") else b""
                    if data == b"[DONE]":
                        break
                    if data:
                        yield self._clock() - asked_s, self._read(data, {}, limits)
        except PassingError as failure:
            raise failure.error from None

    def close(self) -> None:
        self._session.close()

    def _attempt(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        limits: Limits,
        limit_s: float,
    ) -> Reply:
        asked_s = self._clock()
        with self._answer(method, path, body, limits, limit_s) as (response, chunks):
            content = b"".join(chunks)
            headers = CaseInsensitiveDict(response.headers)
            call_s = self._clock() - asked_s
            said = self._read(content, headers, limits)
        if said.get("error"):
            raise ServerFault(
                f"{self._who} answered with an error although its status was 200 "
                f"({said.words()}); look at its log."
            )
        return Reply(said, headers, call_s)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        limits: Limits,
        limit_s: float,
    ) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
        """Send a request; hand out the response and its body as it arrives.

        The time limit covers what is done with them within the block.
        """
        endpoint = self.endpoint
        route = Route(endpoint.root + path)
        with TimeLimit(limit_s) as limit:
            try:
                # No redirects: they turn a POST into a GET and may lead the key astray.
                with self._session.request(
                    method,
                    endpoint.root + path,
                    json=body,
                    timeout=(min(endpoint.connect_timeout_s, limit_s), limit_s),
                    stream=True,
                    allow_redirects=False,
                    proxies=dict(route.proxies),
                ) as response:
                    self.quota = Quota.from_headers(response.headers, self.show) or self.quota
                    self._check(response, limit, route)
                    yield response, self._chunks(response, limit, limits.num_bytes)
                    if limit.is_over:
                        raise self._too_slow()
            except (OSError, urllib3.exceptions.HTTPError, HTTPException) as error:
                if limit.is_over:
                    raise self._too_slow() from None
                self._explain(error, route)
            except Oversized:
                raise ServerFault(
                    f"{self._who} answered with more than this request can need (over "
                    f"{limits.num_bytes >> 20} MB), and the rest was not read; check the "
                    "endpoint's URL and the server's log."
                ) from None
            except Undecodable:
                raise ServerFault(
                    f"{self._who} answered in a packed form that cannot be unpacked; look at its "
                    "log, or at that of the proxy in front of it."
                ) from None

    def _chunks(
        self, response: requests.Response, limit: TimeLimit, num_bytes: int
    ) -> Iterator[bytes]:
        """Yield a body as it arrives; one that was broken off may look complete."""
        for chunk in read_body(response.raw, num_bytes):
            yield chunk
            if limit.is_over:
                break
        if limit.is_over:
            raise self._too_slow()

    def _check(self, response: requests.Response, limit: TimeLimit, route: Route) -> None:
        """Raise what a status other than 200 means."""
        status = response.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            raise ServerFault(
                f"{self._who} redirects to another address; set the endpoint's URL to that one."
            )
        content = b""
        try:
            for chunk in self._chunks(response, limit, ERROR_BYTES):
                content += chunk
        except (Oversized, Undecodable):
            pass  # what came so far is enough of an error
        if said := route.explain_tls(content.decode("utf-8", "replace").lower()):
            raise ServerFault(f"{self._who} {said}")
        who = self._who
        if route.proxy is not None and status in _GATEWAY_STATUS:
            who += f" was asked through the proxy {route.proxy}, and one of the two"
        error = HttpError(who, status, error_message(content, self.show))
        if status in PASSING_STATUS:
            raise PassingError(error, retry_after_s(response.headers))
        raise error

    def _read(self, content: bytes, headers: Mapping[str, str], limits: Limits) -> Value:
        try:
            return parse(content, limits, self.show)
        except Unreadable as error:
            problem = str(error)
        if content.lstrip()[:1] == b"<" or "html" in headers.get("Content-Type", ""):
            raise ServerFault(
                f"{self._who} answered with a web page instead of JSON; check the endpoint's URL."
            )
        if problem != "broken JSON":
            raise ServerFault(
                f"{self._who} answered with more than this request can need ({problem}); check "
                "the endpoint's URL and the server's log."
            )
        raise ServerFault(
            f"{self._who} answered with broken JSON ({len(content)} bytes); try again, and look "
            "at the server's log if it happens again."
        )

    def _explain(self, error: Exception, route: Route) -> None:
        """Raise what a failed connection means; the library's own words may say too much."""
        words = str(error).lower()
        if said := route.explain_proxy(words):
            raise ServerFault(f"{self._who} cannot be reached. {said}") from None
        if isinstance(error, requests.exceptions.SSLError):
            if said := route.explain_tls(words):
                raise ServerFault(f"{self._who} {said}") from None
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
        elif said := route.explain_tls(words):
            raise ServerFault(f"{self._who} {said}") from None
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


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a body at its line ends; what follows the last one is no whole event."""
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest)
            rest = [other]
