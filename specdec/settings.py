"""What a run is asked to do, checked at construction, and the defaults from `.env`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from dotenv import dotenv_values, find_dotenv

from specdec.errors import SettingsError
from specdec.sampling import Sampler

MAX_NUM_DRAFT_TOKENS = 16
MAX_MAX_TOKENS = 8192
MAX_RTT_MS = 10_000.0
BACKENDS = ("auto", "portable", "mlx")
DEFAULT_MODEL = "smollm2-135m"
AUTO = "auto"
TRAINED_DRAFTS = {"smollm2-135m": "smollm2-draft"}
"""The drafts that come with this package, by the target they were trained for."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run but the prompt and the machine.

    Attributes:
        target: model name, Hugging Face repo id, folder or .gguf file.
        draft: a drafting strategy ("ngram", "layer-skip", "none") or a model name; "auto" becomes
            what `default_draft` says.
        backend: "portable", "mlx", or "auto" for the better one on this machine.
        num_draft_tokens: K, drafted tokens per round, 0–16; 0 is plain decoding.
        temperature: 0 (greedy) to 2.
        top_k: 0 switches it off.
        top_p: 1 switches it off.
        max_tokens: the most tokens to write.
        seed: of the run's one random generator.
        rtt_ms: round trip of the emulated network link in milliseconds; 0 is no link.
        jitter_ms: standard deviation of that round trip.
    """

    target: str = DEFAULT_MODEL
    draft: str = AUTO
    backend: str = "auto"
    num_draft_tokens: int = 3
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    rtt_ms: float = 0.0
    jitter_ms: float = 0.0

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
        _ = self.sampler
        if self.draft == AUTO:
            object.__setattr__(self, "draft", default_draft(self.target))

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.temperature, self.top_k, self.top_p)


def default_draft(target: str) -> str:
    """Return the draft that needs no choice: one trained for `target`, or its own layers.

    A target behind a server ("@name") keeps its layers to itself: prompt lookup drafts for it.
    """
    return TRAINED_DRAFTS.get(target, "ngram" if target.startswith("@") else "layer-skip")


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{what} must lie between {low:g} and {high:g}, not {value:g}.")


def variables() -> dict[str, str]:
    """Return the process environment over what `.env` in the working directory sets."""
    from_file = dotenv_values(find_dotenv(usecwd=True))
    return {name: value for name, value in from_file.items() if value is not None} | dict(
        os.environ
    )


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


_VARIABLES: dict[str, tuple[str, type]] = {
    "TARGET_MODEL": ("target", str),
    "DRAFT_MODEL": ("draft", str),
    "SPECULATION_K": ("num_draft_tokens", int),
    "TEMPERATURE": ("temperature", float),
    "MAX_TOKENS": ("max_tokens", int),
}
_KIND_WORDS = {str: "text", int: "a whole number", float: "a number"}
