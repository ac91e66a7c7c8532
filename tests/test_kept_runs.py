"""Seeded runs of every kind are what they always were, but for their times."""

from __future__ import annotations

import gzip
import math
from typing import Any

import pytest

from specdec.saved.trace import dump_trace, parse_trace
from tests.kept.make import KEPT, facts, make, path_of

TOLERANCE = 1e-4
"""Another processor may sum floats in another order; every token and decision must be the same."""


def differences(kept: Any, now: Any, place: str = "") -> list[str]:
    """Return where `now` does not say what `kept` says; what is new beside it is no difference."""
    if isinstance(kept, dict) and isinstance(now, dict):
        return [
            found
            for name, value in kept.items()
            for found in differences(value, now.get(name, "missing"), f"{place}.{name}")
        ]
    if isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        pairs = enumerate(zip(kept, now, strict=True))
        return [f for i, (a, b) in pairs for f in differences(a, b, f"{place}[{i}]")]
    if isinstance(kept, float) and isinstance(now, int | float):
        return [] if math.isclose(kept, now, abs_tol=TOLERANCE) else [f"{place}: {kept}, now {now}"]
    return [] if kept == now else [f"{place}: {kept!r:.80}, now {now!r:.80}"]


@pytest.mark.parametrize("name", KEPT)
def test_a_seeded_run_is_what_it_was(name):
    kept = gzip.decompress(path_of(name).read_bytes())
    now = dump_trace(make(KEPT[name]), only_essential=True)
    assert differences(facts(kept), facts(now)) == []


@pytest.mark.parametrize("name", KEPT)
def test_a_trace_of_before_can_be_read(name):
    kept = gzip.decompress(path_of(name).read_bytes())
    run = parse_trace(kept)
    assert run.summary.num_tokens == 28
    assert differences(facts(kept), facts(dump_trace(run, only_essential=True))) == []


def test_a_changed_decision_would_be_found():
    one, other = ({"event": "round", "emitted": [1, token], "p": 0.5} for token in (2, 3))
    assert differences([one], [other]) == ["[0].emitted[1]: 2, now 3"]
    assert differences({"p": 0.5}, {"p": 0.5 + 2 * TOLERANCE})
    assert differences({"p": 0.5}, {})
