"""A run says what it ran on, and nothing that is nobody's business."""

from __future__ import annotations

from specdec.runs.machine import describe_environment
from specdec.saved.exports import EXPORTS
from tests.made_runs import tiny_run


def test_hardware_and_versions_are_named():
    described = describe_environment()
    assert {"system", "machine", "processor", "num_cpus", "python", "numpy"} <= set(described)
    assert int(described["num_cpus"]) >= 1
    assert all(described.values())


def test_no_secret_of_the_environment_is_in_any_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CEREBRAS_API_KEY", "csk-very-secret")
    describe_environment.cache_clear()
    run = tiny_run(tmp_path)
    for export in EXPORTS:
        assert b"csk-very-secret" not in export.make(run)
