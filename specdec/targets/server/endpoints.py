"""Servers that may hold the target, as they are named in `.env`.

`ENDPOINT_<NAME>_URL` makes an endpoint called <name>; its other variables stand beside it.
Cerebras is always there. Where a target is named, `@name` means an endpoint. A key is never part
of an `Endpoint`: it names the variable that holds it, and the value is read when a connection is
opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from specdec.errors import SettingsError
from specdec.settings import MARK, is_endpoint, variables

SERVERS = ("auto", "cerebras", "vllm", "sglang", "llama-server", "mlx")
PROTOCOLS = ("auto", "score", "prefixes", "continue")
CEREBRAS_URL = "https://api.cerebras.ai"
DEFAULT_CEREBRAS_MODEL = "gpt-oss-120b"
DEFAULT_CEREBRAS_TOKENIZER = "openai/gpt-oss-120b"
WHOLE_VOCABULARY = -1
MAX_TIMEOUT_S = 3600.0
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model behind one server.

    Attributes:
        name: what the endpoint is called on screen.
        url: of the server; a trailing `/v1` is understood.
        model: as the server calls it.
        server: its kind, or "auto" to ask it.
        protocol: how drafts are verified, or "auto" for the best it can do.
        key_variable: the environment variable with the API key; None for a server without keys.
        tokenizer: of the target: a folder, a tokenizer.json or a Hugging Face repo id.
        top_logprobs: alternatives asked for per position; −1 for the whole vocabulary.
        context_length: in tokens; None to ask the server.
        connect_timeout_s: for opening a connection.
        read_timeout_s: for one whole answer.
    """

    name: str
    url: str
    model: str
    server: str = "auto"
    protocol: str = "auto"
    key_variable: str | None = None
    tokenizer: str | None = None
    top_logprobs: int = 20
    context_length: int | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        parts = _web_address(self.url)
        if parts is None:
            raise SettingsError(
                f"The URL of endpoint {self.name} must look like http://host:port, with a port of "
                "at most 65535."
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError(
                f"The URL of endpoint {self.name} must hold nothing but host, port and path; "
                "name the variable that holds the key in its KEY_VARIABLE."
            )
        _one_of(f"The server of endpoint {self.name}", self.server, SERVERS)
        _one_of(f"The protocol of endpoint {self.name}", self.protocol, PROTOCOLS)
        if self.top_logprobs < 1 and self.top_logprobs != WHOLE_VOCABULARY:
            raise SettingsError(
                f"The top log-probabilities of endpoint {self.name} must be 1 or more, or −1 for "
                f"the whole vocabulary, not {self.top_logprobs}."
            )
        if self.context_length is not None and self.context_length < 1:
            raise SettingsError(
                f"The context length of endpoint {self.name} must be 1 or more, "
                f"not {self.context_length}."
            )
        for limit_s in (self.connect_timeout_s, self.read_timeout_s):
            if not 0 < limit_s <= MAX_TIMEOUT_S:
                raise SettingsError(
                    f"The time limit of endpoint {self.name} must be above 0 s and at most "
                    f"{MAX_TIMEOUT_S:g} s, not {limit_s:g}."
                )

    @property
    def root(self) -> str:
        """The URL without the `/v1` that clients are used to append."""
        return re.sub(r"/(v1/?)?$", "", self.url)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def key(self, environment: Mapping[str, str] | None = None) -> str | None:
        """Return the API key, None for an endpoint without one.

        Raises:
            SettingsError: the variable is not set, or what it holds cannot be a key.
        """
        if self.key_variable is None:
            return None
        environment = variables() if environment is None else environment
        key = environment.get(self.key_variable, "").strip()
        if not key:
            raise SettingsError(
                f"{self.name} needs an API key: set {self.key_variable} in .env or in the "
                "environment."
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError(
                f"{self.key_variable} does not hold a usable key: it must be one word of plain "
                "ASCII characters."
            )
        return key


def endpoints_from_environment(
    environment: Mapping[str, str] | None = None,
) -> dict[str, Endpoint]:
    """Return every endpoint that `.env` (or `environment`) describes, by name.

    Raises:
        SettingsError: a variable holds something that cannot be used; the message names it.
    """
    environment = variables() if environment is None else environment
    endpoints = {"cerebras": _cerebras(environment)}
    for variable in sorted(environment):
        match = re.fullmatch(r"ENDPOINT_(\w+)_URL", variable)
        if match and environment[variable].strip():
            endpoint = _named(match[1], environment)
            endpoints[endpoint.name] = endpoint
    return endpoints


def find_endpoint(target: str, environment: Mapping[str, str] | None = None) -> Endpoint | None:
    """Return the endpoint that a target called "@name" means, None for any other target.

    Raises:
        SettingsError: there is no endpoint of this name.
    """
    if not is_endpoint(target):
        return None
    endpoints = endpoints_from_environment(environment)
    name = target.removeprefix(MARK).lower()
    if name not in endpoints:
        raise SettingsError(
            f"There is no endpoint {target}; there are "
            f"{', '.join(MARK + known for known in endpoints)}, and ENDPOINT_<NAME>_URL in .env "
            "makes another."
        )
    return endpoints[name]


def _cerebras(environment: Mapping[str, str]) -> Endpoint:
    def value(variable: str, default: str) -> str:
        return environment.get(variable, "").strip() or default

    return Endpoint(
        name="cerebras",
        url=value("CEREBRAS_URL", CEREBRAS_URL),
        model=value("CEREBRAS_TARGET_MODEL", DEFAULT_CEREBRAS_MODEL),
        server="cerebras",
        key_variable="CEREBRAS_API_KEY",
        tokenizer=value("CEREBRAS_TOKENIZER", DEFAULT_CEREBRAS_TOKENIZER),
    )


def _named(upper_name: str, environment: Mapping[str, str]) -> Endpoint:
    def text(field: str) -> str | None:
        return environment.get(f"ENDPOINT_{upper_name}_{field}", "").strip() or None

    def number(field: str, default: Number, kind: Callable[[str], Number], words: str) -> Number:
        value = text(field)
        try:
            return default if value is None else kind(value)
        except ValueError:
            raise SettingsError(
                f"ENDPOINT_{upper_name}_{field} must be {words}, not {value!r}: correct it in "
                ".env or in the environment."
            ) from None

    def whole(field: str, default: int) -> int:
        return number(field, default, int, "a whole number")

    name = upper_name.lower().replace("_", "-")
    model = text("MODEL")
    if model is None:
        raise SettingsError(
            f"Endpoint {name} has a URL but no model: set ENDPOINT_{upper_name}_MODEL to the name "
            "that the server gives its model."
        )
    return Endpoint(
        name=name,
        url=text("URL") or "",
        model=model,
        server=(text("SERVER") or "auto").lower(),
        protocol=(text("PROTOCOL") or "auto").lower(),
        key_variable=text("KEY_VARIABLE"),
        tokenizer=text("TOKENIZER"),
        top_logprobs=whole("TOP_LOGPROBS", 20),
        context_length=whole("CONTEXT_LENGTH", 0) or None,
        read_timeout_s=number("TIMEOUT_S", 60.0, float, "a number"),
    )


def _web_address(url: str) -> SplitResult | None:
    """Take a URL apart; None where no request could be sent to it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        return None
    is_host = re.fullmatch(r"[^\s.]\S*", host or "")
    return parts if parts.scheme in ("http", "https") and is_host else None


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{what} must be one of {', '.join(choices)}, not {value!r}.")
