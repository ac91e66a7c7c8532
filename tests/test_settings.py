"""Settings are checked at construction, and every message names what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdec.errors import SettingsError
from specdec.settings import RunConfig, Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_draft_tokens": 99}, "K must lie between 0 and 16, not 99"),
        ({"num_draft_tokens": -1}, "K must lie between 0 and 16"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"max_tokens": 0}, "token limit must lie between 1"),
        ({"seed": -1}, "seed"),
        ({"rtt_ms": -5.0}, "round trip"),
        ({"rtt_ms": float("nan")}, "round trip"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
        ({"top_p": 0.0}, "top-p"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RunConfig(**changes)  # type: ignore[arg-type]


def test_env_sets_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECULATION_K", "7")
    monkeypatch.setenv("TEMPERATURE", "0")
    monkeypatch.setenv("DRAFT_MODEL", "ngram")
    run = Settings.from_environment().run
    assert (run.num_draft_tokens, run.temperature, run.draft) == (7, 0.0, "ngram")


def test_a_dotenv_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SPECULATION_K=3\nMAX_TOKENS=99\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAX_TOKENS", "77")
    run = Settings.from_environment().run
    assert (run.num_draft_tokens, run.max_tokens) == (3, 77)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SPECULATION_K", "many", "SPECULATION_K must be a whole number, not 'many'"),
        ("TEMPERATURE", "warm", "TEMPERATURE must be a number"),
        ("SPECULATION_K", "40", r"between 0 and 16, not 40.*\.env"),
    ],
)
def test_a_bad_variable_is_named(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment()
