"""What grows with a run is measured on a run that has grown."""

from __future__ import annotations

from benchmarks.scale import decoding, long_runs
from tests.models.tiny import write_tiny_llama


def test_longer_contexts_hold_more_and_longer_runs_have_more_rounds(tmp_path):
    target = str(write_tiny_llama(tmp_path / "tiny", width=64))
    decoded = decoding(target, "layer-skip", (16, 160), 8, 1)
    short, long = decoded["16 tokens"], decoded["160 tokens"]
    assert min(short["plain, tokens/s"], long["drafted, tokens/s"]) > 0
    assert long["keys and values, MB"] > short["keys and values, MB"]
    runs = long_runs(tmp_path, (16, 48))
    assert runs["48 tokens"]["rounds"] > runs["16 tokens"]["rounds"] > 0
    assert all(value >= 0 for run in runs.values() for value in run.values())
