"""Proxies and TLS: each of the usual mistakes is one sentence, and loopback needs no proxy."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

import pytest

from specdec.errors import TargetError
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.http import Connection
from specdec.targets.server.route import Route
from tests.targets.server.raw_server import answer, free_port, raw_server

PATH = "/v1/completions"


@pytest.fixture
def through(monkeypatch):
    """Return a function that asks a far server through a proxy and returns what goes wrong."""

    def ask(proxy: str, url: str = "http://far.invalid") -> str:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        connection = Connection(
            Endpoint("lab", url, "toy", read_timeout_s=2), sleep=lambda seconds: None
        )
        with pytest.raises(TargetError) as caught:
            connection.post(PATH, {})
        return str(caught.value)

    return ask


@pytest.mark.parametrize("url", ["http://far.invalid", "https://far.invalid"])
def test_a_proxy_that_is_not_there(through, url):
    port = free_port()
    said = through(f"http://user:secret@127.0.0.1:{port}", url)
    assert f"The proxy 127.0.0.1:{port}" in said
    assert "refuses connections" in said
    assert "secret" not in said


def said_by_proxy(status: str):
    reply = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    return lambda connection, number: connection.sendall(reply)


def test_a_proxy_that_lets_nobody_through(through):
    with raw_server(said_by_proxy("502 Bad Gateway")) as proxy:
        assert "answered 502 and let nobody through" in through(proxy, "https://far.invalid")
        assert "was asked through the proxy 127.0.0.1:" in through(proxy, "http://far.invalid")


def test_a_proxy_that_wants_a_login(through):
    with raw_server(said_by_proxy("407 Proxy Authentication Required")) as proxy:
        assert "it wants a login" in through(proxy, "https://far.invalid")


def test_socks_without_its_package(through):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "socks", None)
        said = through("socks5://127.0.0.1:9")
    assert "SOCKS" in said
    assert "NO_PROXY" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_never_goes_through_a_proxy(monkeypatch, host):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with raw_server(lambda connection, number: answer(connection, b'{"fine": 1}')) as url:
        asked = url.replace("127.0.0.1", host)
        assert Connection(Endpoint("lab", asked, "toy")).post(PATH, {}).body["fine"]


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://[::1]:8000", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://0.0.0.0:80", True),
        ("http://lab.localhost", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.org", False),
    ],
)
def test_what_is_loopback(monkeypatch, url, is_loopback):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (Route(url).proxy is None) == is_loopback


def test_https_to_an_http_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def plain() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1 << 16)

        thread = threading.Thread(target=plain)
        thread.start()
        port = listener.getsockname()[1]
        endpoint = Endpoint("lab", f"https://127.0.0.1:{port}", "toy", read_timeout_s=2)
        with pytest.raises(TargetError, match=r"speaks plain http.*write http://"):
            Connection(endpoint, sleep=lambda seconds: None).get(PATH)
        thread.join()


@pytest.mark.parametrize(
    "reply",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>The plain HTTP request was "
        b"sent to HTTPS port</html>",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    ],
    ids=["alert", "nginx", "Go"],
)
def test_http_to_an_https_port(reply):
    with raw_server(lambda connection, number: connection.sendall(reply)) as url:
        endpoint = Endpoint("lab", url, "toy", read_timeout_s=2)
        with pytest.raises(TargetError, match=r"speaks https.*write https://"):
            Connection(endpoint, sleep=lambda seconds: None).get(PATH)
