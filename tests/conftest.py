"""What every test gets: no settings from the outside, and Hypothesis profiles."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own settings and keys out of the tests."""
    for variable in (
        "TARGET_MODEL",
        "DRAFT_MODEL",
        "SPECULATION_K",
        "TEMPERATURE",
        "MAX_TOKENS",
        "CEREBRAS_API_KEY",
        "CEREBRAS_TARGET_MODEL",
    ):
        monkeypatch.delenv(variable, raising=False)
