"""What a run is asked to do, checked at construction, and the defaults from `.env`."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv import dotenv_values, find_dotenv
from dotenv.parser import parse_stream

from specdec.block import TOKEN_RULE, find_rule
from specdec.errors import SettingsError
from specdec.policies.base import MAX_DEPTH
from specdec.policies.named import find_policy
from specdec.records import FIXED_POLICY
from specdec.sampling import Sampler

MAX_NUM_DRAFT_TOKENS = MAX_DEPTH
MAX_MAX_TOKENS = 8192
MAX_RTT_MS = 10_000.0
BACKENDS = ("auto", "portable", "mlx", "torch")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
DEFAULT_MODEL = "smollm2-135m"
AUTO = "auto"
MARK = "@"
"""Where a target is named, what stands before the name of a server."""
TRAINED_DRAFTS = {"smollm2-135m": "smollm2-draft"}
"""The drafts that come with this package, by the target they were trained for."""
TRAINED_HEADS = {"smollm2-135m": "smollm2-eagle"}
"""Those that read the target's hidden states: faster, where the backend gives these."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run but the prompt and the machine.

    Attributes:
        target: model name, Hugging Face repo id, folder or .gguf file.
        draft: a drafting strategy ("ngram", "layer-skip", "none") or a model name; "auto" becomes
            what `default_draft` says.
        backend: "portable", "mlx", "torch", or "auto" for the better one on this machine.
        device: where the torch backend runs: "cpu", "cuda", "cuda:1", "mps", or "auto".
        one_row: whether the target verifies one token at a time: bit for bit plain decoding on
            every backend, and no faster.
        num_draft_tokens: K, drafted tokens per round, 0–16; 0 is plain decoding.
        temperature: 0 (greedy) to 2.
        top_k: 0 switches it off.
        top_p: 1 switches it off.
        max_tokens: the most tokens to write.
        seed: of the run's one random generator.
        rtt_ms: round trip of the emulated network link in milliseconds; 0 is no link.
        jitter_ms: standard deviation of that round trip.
        policy: what decides K from round to round; "fixed" leaves it as it is set.
        tree: shape of a model's draft: "" for a chain, children per token by depth ("3-2-1"), or
            "auto" for a tree that grows where the draft is sure, or "best" for the shape that
            promises most by the acceptance and costs of the run.
        rule: how a draft is verified: "token" by token, or a chain as a "block".
    """

    target: str = DEFAULT_MODEL
    draft: str = AUTO
    backend: str = "auto"
    device: str = AUTO
    one_row: bool = False
    num_draft_tokens: int = 3
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    policy: str = FIXED_POLICY
    tree: str = ""
    rule: str = TOKEN_RULE

    def __post_init__(self) -> None:
        _check("The number of drafted tokens K", self.num_draft_tokens, 0, MAX_NUM_DRAFT_TOKENS)
        _check("The token limit", self.max_tokens, 1, MAX_MAX_TOKENS)
        _check("The seed", self.seed, 0, 2**63 - 1)
        _check("The round trip in milliseconds", self.rtt_ms, 0, MAX_RTT_MS)
        _check("The jitter in milliseconds", self.jitter_ms, 0, MAX_RTT_MS)
        if self.backend not in BACKENDS:
            raise SettingsError(
                f"There is no backend {self.backend!r}; choose one of {', '.join(BACKENDS)}."
            )
        self._check_device()
        _ = self.sampler
        find_policy(self.policy)
        find_rule(self.rule)
        if self.draft == AUTO:
            object.__setattr__(self, "draft", default_draft(self.target, self.backend))

    def _check_device(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise SettingsError(
                f"There is no device {self.device!r}; choose auto, cpu, cuda, cuda:1 (the second "
                "GPU) or mps."
            )
        if self.device != AUTO and self.backend in ("portable", "mlx"):
            raise SettingsError(
                f"The {self.backend} backend chooses no device; take the torch backend, or leave "
                "the device out."
            )
        if self.one_row and self.is_remote:
            raise SettingsError(
                "A server computes its rows as it does; one row at a time is for targets here."
            )

    @property
    def place(self) -> str:
        """Return backend and device in one name: what weights are loaded and shared by."""
        return self.backend if self.device == AUTO else f"{self.backend}:{self.device}"

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.temperature, self.top_k, self.top_p)

    @property
    def is_remote(self) -> bool:
        """Say whether the target is behind a server."""
        return is_endpoint(self.target)


def is_endpoint(target: str) -> bool:
    """Say whether a target's name is that of an endpoint ("@name")."""
    return target.startswith(MARK)


def is_apple_silicon() -> bool:
    """Say whether this machine's default backend is mlx."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def default_draft(target: str, backend: str = AUTO) -> str:
    """Return the draft that needs no choice: one trained for `target`, or its own layers.

    Of the trained ones that which reads hidden states, where `backend` gives them: mlx does not.
    A target behind a server ("@name") keeps its layers to itself: prompt lookup drafts for it.
    """
    shows_states = backend != "mlx" and not (backend == AUTO and is_apple_silicon())
    if shows_states and target in TRAINED_HEADS:
        return TRAINED_HEADS[target]
    return TRAINED_DRAFTS.get(target, "ngram" if is_endpoint(target) else "layer-skip")


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        digits = str(value)
        given = f"{digits[:20]}…" if len(digits) > 20 and isinstance(value, int) else f"{value:g}"
        raise SettingsError(f"{what} must lie between {low:g} and {high:g}, not {given}.")


def variables() -> dict[str, str]:
    """Return the process environment over what `.env` sets, both as they are at this moment.

    `.env` is that of the working directory or of the nearest folder above it that has one. Nothing
    of it is copied into the process environment, which child processes inherit: keys stay here.

    Raises:
        SettingsError: `.env` cannot be read; the message names the file and none of its contents.
    """
    path = _dotenv_path()
    from_file = {} if path is None else dotenv_values(stream=StringIO(_dotenv_text(path)))
    return {name: value for name, value in from_file.items() if value is not None} | dict(
        os.environ
    )


def quiet_threads() -> None:
    """Let idle threads of GNU OpenMP sleep; call it before Numba launches its threads.

    They spin while they wait, which on two cores shared with a browser made a forward up to ten
    times slower. `OMP_WAIT_POLICY` is read from the process environment only; who set it keeps it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _dotenv_path() -> Path | None:
    """Return where `.env` is, None where there is none.

    A folder of that name counts only in the working directory, where the file was meant to be.
    """
    if os.path.isdir(".env"):
        return Path(".env").absolute()
    try:
        found = find_dotenv(usecwd=True)
    except FileNotFoundError:  # the working directory itself is gone
        return None
    return Path(found) if found else None


def _dotenv_text(path: Path) -> str:
    """Return the text of `.env`, every line of which can be understood."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}): put a readable file there, or none."
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a byte order mark is full of them, and yet valid UTF-8
        raise SettingsError(f"{path} is not text in UTF-8: save it in that encoding again.")
    for binding in parse_stream(StringIO(text)):
        if binding.error:  # dotenv would leave it out, with a warning in the log at every reading
            skipped = binding.original.string
            line = binding.original.line + skipped[: -len(skipped.lstrip())].count("\n")
            raise SettingsError(
                f"Line {line} of {path} cannot be understood: write NAME=value, with quotes in "
                "pairs, or put # before it."
            )
    return text


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults for the sidebar and the command line; every field may be set in `.env`."""

    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_environment(cls) -> Settings:
        """Read `.env` (the process environment wins) and return the defaults it sets.

        Raises:
            SettingsError: a variable holds something that cannot be used; the message names it.
        """
        found = variables()
        values: dict[str, Any] = {}
        for variable, (name, kind) in _VARIABLES.items():
            text = found.get(variable, "").strip()
            if not text:
                continue
            try:
                values[name] = kind(text)
            except ValueError:
                raise SettingsError(
                    f"{variable} must be {_KIND_WORDS[kind]}, not {text!r}: "
                    "correct it in .env or in the environment."
                ) from None
        try:
            return cls(run=RunConfig(**values))
        except SettingsError as error:
            raise SettingsError(f"{error} (set in .env or in the environment)") from None


def _switch(text: str) -> bool:
    """Read yes or no.

    Raises:
        ValueError: it is neither.
    """
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "TARGET_MODEL": ("target", str),
    "DRAFT_MODEL": ("draft", str),
    "SPECULATION_K": ("num_draft_tokens", int),
    "SPECULATION_TREE": ("tree", str),
    "SPECULATION_POLICY": ("policy", str),
    "SPECULATION_RULE": ("rule", str),
    "TEMPERATURE": ("temperature", float),
    "MAX_TOKENS": ("max_tokens", int),
    "SPECDEC_TOP_K": ("top_k", int),
    "SPECDEC_TOP_P": ("top_p", float),
    "SPECDEC_SEED": ("seed", int),
    "SPECDEC_RTT_MS": ("rtt_ms", float),
    "SPECDEC_JITTER_MS": ("jitter_ms", float),
    "SPECDEC_BACKEND": ("backend", str),
    "SPECDEC_DEVICE": ("device", str),
    "SPECDEC_ONE_ROW": ("one_row", _switch),
}
_KIND_WORDS = {int: "a whole number", float: "a number", _switch: "yes or no"}
