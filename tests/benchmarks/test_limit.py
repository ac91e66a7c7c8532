"""The account of a forward adds up, whatever the model."""

from __future__ import annotations

import pytest

from benchmarks.limit import ROWS, measure, weight_bytes
from specdec.models.portable import PortableModel
from tests.models.tiny import write_tiny_llama


def test_what_a_forward_takes_is_its_bound_and_what_is_lost(tmp_path):
    model = PortableModel.load(write_tiny_llama(tmp_path))
    report = measure(model, model.without_middle_layers(), repeats=1, context=8)
    assert report["bandwidth_gb_per_s"] > 0
    assert list(report["forwards"]) == [*(f"{rows} rows" for rows in ROWS), "draft step"]
    for account in report["forwards"].values():
        lost = sum(account[f"{what}, ms"] for what in ("python and launch", "attention"))
        rest = account["arithmetic, norms, threads, ms"]
        assert account["bound_ms"] + lost + rest == pytest.approx(account["ms"], abs=0.05)
        assert account["share_of_bound"] > 0


def test_the_bytes_of_a_forward_are_its_layers_its_head_and_its_context(tmp_path):
    model = PortableModel.load(write_tiny_llama(tmp_path, layers=3, width=32, vocab_size=300))
    w = model.llama.weights
    stacks = (w.attention_norm, w.qkv, w.attention_out, w.ffn_norm, w.gate, w.up, w.down)
    assert weight_bytes(model, 0) == sum(s.nbytes for s in stacks) + 4 * (300 * 32 + 32)
    cache = model.new_cache()
    model.prefill(list(range(10)), cache)
    used = cache.keys[..., :10].nbytes + cache.values[:, :, :10].nbytes
    assert weight_bytes(model, 10) - weight_bytes(model, 0) == used
    assert weight_bytes(model.without_middle_layers(), 0) < weight_bytes(model, 0)
