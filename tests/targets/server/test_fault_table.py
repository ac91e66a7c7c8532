"""Whatever a server does: an answer or one sentence, in time, in little memory, without the key."""

from __future__ import annotations

import base64
import logging
import resource
import time
import traceback

import numpy as np
import pytest

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.sampling import Sampler
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.http import Connection
from specdec.targets.server.probe import probe
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import measure_streaming
from tests.targets.server.fault_server import FaultServer, serving
from tests.targets.server.fault_table import FAULTS, KEY
from tests.targets.server.toy_server import ToyServer

LIMIT_S = 0.3
GRACE_S = 2.0
MAX_GROWTH_MB = 300
DRAFT = Draft.chain([11, 12])


@pytest.fixture(scope="module")
def server(tokenizer):
    with serving(ToyServer(tokenizer, owner="vllm")) as server:
        yield server


@pytest.fixture(scope="module")
def targets(server, tokenizer) -> dict[str, RemoteTarget]:
    """Return a target for each protocol, probed while the server was well."""
    return {
        protocol: RemoteTarget(
            connect(server), tokenizer, probe(connect(server, protocol, 10.0), tokenizer)
        )
        for protocol in ("score", "prefixes", "continue")
    }


def connect(server: FaultServer, protocol: str = "auto", limit_s: float = LIMIT_S) -> Connection:
    endpoint = Endpoint("lab", server.url, "toy", protocol=protocol, read_timeout_s=limit_s)
    return Connection(endpoint, KEY, sleep=lambda seconds: None)


def spelled(text: str) -> list[str]:
    """Return the spellings of the key in which a leak would be looked for."""
    encoded = base64.b64encode(KEY.encode()).decode()
    whole = [text, text.lower(), text.replace(" ", ""), text[::-1]]
    pieces = [KEY[i : i + 8] for i in range(len(KEY) - 7)]
    pieces += [encoded[i : i + 10] for i in range(4, len(encoded) - 12)]
    pieces += [KEY.encode().hex()[i : i + 16] for i in range(0, 40, 2)]
    return [piece for piece in pieces if any(piece in w or piece.lower() in w for w in whole)]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_one_sentence_in_time(server, targets, tokenizer, caplog, name):
    caplog.set_level(logging.DEBUG)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    acts = {
        "connecting": lambda: probe(connect(server), tokenizer).findings,
        "streaming": lambda: measure_streaming(targets["score"], [42, 7], Sampler(0.7), 8),
    }
    for protocol, target in targets.items():
        acts[protocol] = lambda target=target: checked(target.start([42, 7]).score([42, 7], DRAFT))
    server.fault = FAULTS[name]
    shown = []
    try:
        for act, call in acts.items():
            began_s = time.perf_counter()
            try:
                shown.append(str(call()))
            except TargetError as error:
                shown.append(str(error))
                leaked = spelled("".join(traceback.format_exception(error)))
                assert not leaked, (act, leaked)
            assert time.perf_counter() - began_s < LIMIT_S + GRACE_S, act
    finally:
        server.fault = None
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    assert grown_mb < MAX_GROWTH_MB
    for text in (*shown, caplog.text, *(str(target.quota) for target in targets.values())):
        assert not spelled(text), (text, spelled(text))
    for sentence in shown:
        assert sentence.isprintable()
        assert len(sentence) < 900


def checked(scores) -> str:
    """Return nothing, after checking that what was believed can be believed."""
    for row in scores.logits:
        if row is not None:
            assert np.isfinite(row.max())
            assert row.max() <= 1e-3
            assert not np.isnan(row).any()
    assert 0 <= scores.link_s < 60
    return ""


def test_the_table_is_long_enough():
    assert len(FAULTS) >= 90


def test_the_server_without_a_fault_is_fine(server, targets, tokenizer):
    assert probe(connect(server, limit_s=10.0), tokenizer).capabilities.noise == 0.0
    measured = measure_streaming(targets["score"], [42, 7], Sampler(0.7), 8)
    assert (measured.num_tokens, measured.counted_by) == (3, "server")


@pytest.mark.parametrize(
    "name",
    [name for name in FAULTS if "count" in name or "usage" in name],
)
def test_a_count_of_nonsense_is_not_believed(server, targets, name):
    server.fault = FAULTS[name]
    try:
        measured = measure_streaming(targets["score"], [42, 7], Sampler(0.7), 8)
    finally:
        server.fault = None
    assert measured.counted_by == "tokenizer"
    assert 0 < measured.num_tokens < 20
