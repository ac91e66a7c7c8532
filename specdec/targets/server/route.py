"""The way to a server: which proxy stands on it, and what is wrong where it ends too early.

Loopback is never asked through a proxy: it would be the proxy's own. A proxy is named by host and
port only, since its address may hold a password.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

_WANTS_TLS = ("\\x15\\x03", "https port", "https server")
"""A TLS alert where a status line should be; nginx' and Go's words for it."""
_NO_TLS = ("wrong_version_number", "wrong version number", "record layer failure", "http_request")


class Route:
    """The way to one URL, as the environment describes it now."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._is_plain = parts.scheme == "http"
        self._is_loopback = _is_loopback(self._host)
        found = None if self._is_loopback else select_proxy(url, get_environ_proxies(url))
        self._proxy = str(found) if found else None

    @property
    def proxies(self) -> Mapping[str, str]:
        """Return what a request is to be told about proxies beside the environment."""
        return {"no_proxy": self._host} if self._is_loopback else {}

    @property
    def proxy(self) -> str | None:
        """Return host and port of the proxy, None where there is none."""
        if self._proxy is None:
            return None
        with suppress(ValueError):
            parts = urlsplit(self._proxy if "://" in self._proxy else f"//{self._proxy}")
            if parts.hostname:
                return parts.hostname + (f":{parts.port}" if parts.port else "")
        return "of the environment"

    def explain_proxy(self, words: str) -> str | None:
        """Return what a failure with these `words` (lower case) means if the proxy is at fault."""
        if self.proxy is None:
            return None
        who = f"The proxy {self.proxy}, which the environment names (HTTPS_PROXY, HTTP_PROXY)"
        mend = "correct that variable, or list the server's host in NO_PROXY"
        if "missing dependencies for socks" in words:
            return (
                f"{who}, speaks SOCKS, for which a package is missing: pip install PySocks, or "
                f"{mend}."
            )
        if "proxy" not in words and "socks" not in words:
            return None
        status = words.partition("tunnel connection failed: ")[2][:3]
        if status.isdigit():
            wants = ": it wants a login" if status == "407" else ""
            return f"{who}, answered {status} and let nobody through{wants}; {mend}."
        if "refused" in words:
            return f"{who}, refuses connections; {mend}."
        if "resolve" in words or "not known" in words:
            return f"{who}, is a host that does not exist; {mend}."
        return f"{who}, cannot be used; {mend}."

    def explain_tls(self, words: str) -> str | None:
        """Return what is wrong where one side speaks https and the other does not."""
        if self._is_plain:
            if any(sign in words for sign in _WANTS_TLS):
                return "speaks https on this port; write https:// in the endpoint's URL."
        elif any(sign in words for sign in _NO_TLS):
            return "speaks plain http on this port; write http:// in the endpoint's URL."
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return mapped.is_loopback or mapped.is_unspecified
    return False
