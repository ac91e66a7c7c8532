"""Weights are told apart by what is in their files."""

from __future__ import annotations

from specdec.models.fetch.digest import digest_weights


def test_a_digest_tells_weights_apart(tmp_path):
    digests = set()
    for number, weights in enumerate([b"abc", b"abd"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        digests |= {digest_weights(folder)}
    assert len(digests) == 2
