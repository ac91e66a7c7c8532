"""What every test gets: no settings from the outside, and Hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import specdec.settings

REPOSITORY = Path(__file__).parents[1]

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of xdist its share of the cores: more threads than these would only wait."""
    if num_workers := getattr(config.option, "numprocesses", None):
        share = max(1, (os.cpu_count() or 1) // num_workers)
        for library in ("NUMBA", "OMP", "OPENBLAS"):
            os.environ.setdefault(f"{library}_NUM_THREADS", str(share))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nights' tests to those who ask for them: `-m nightly`."""
    if "nightly" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("nightly") is None]


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep a developer's own settings, keys and saved runs out of the tests.

    `SPECDEC_CACHE` stays: it says where weights lie, which would be fetched again without it.
    """
    of_runs = specdec.settings._VARIABLES
    for variable in list(os.environ):
        if variable in of_runs or variable.startswith(("CEREBRAS_", "ENDPOINT_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("SPECDEC_DB", str(tmp_path_factory.getbasetemp() / "runs.db"))
    found = specdec.settings._dotenv_path

    def of_the_test() -> Path | None:
        """Find what a test wrote into a folder of its own, not what the developer has."""
        path = found()
        return None if path is None or REPOSITORY.is_relative_to(path.parent) else path

    monkeypatch.setattr(specdec.settings, "_dotenv_path", of_the_test)
