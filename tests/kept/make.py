"""Twelve seeded runs of every kind the engine knows, and how to make them again.

    python -m tests.kept.make        writes their traces (and the server's answers) anew

The traces beside this file were made before the package got its present layout, and hold every
later version to the same tokens, probabilities, uniforms and decisions. They are made anew only
when one of these changes on purpose, which the commit then says.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from specdec.engine import RoundSettings, generate
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.pair import LoadedModel, Pair, load_model, make_drafter, make_pair
from specdec.runs.recorder import RunRecorder
from specdec.runs.run import Run
from specdec.saved.trace import dump_trace
from specdec.settings import RunConfig
from specdec.targets.server.endpoints import Endpoint
from specdec.targets.server.remote import connect
from tests.models.tiny import write_tiny_llama
from tests.targets.server.toy_server import ToyServer

FOLDER = Path(__file__).parent
ANSWERS = FOLDER / "server.json.gz"
PROMPT = "the tin and the ant, the tin and the"


@dataclass(frozen=True)
class Kept:
    """One configuration; `later` is what is set from round 3 on, `protocol` that of a server."""

    config: Mapping[str, Any]
    later: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""


KEPT = {
    "plain-greedy": Kept({"draft": "none", "num_draft_tokens": 0, "temperature": 0.0}),
    "plain-sampled": Kept({"draft": "none", "num_draft_tokens": 0, "temperature": 0.9}),
    "ngram-greedy": Kept({"draft": "ngram", "num_draft_tokens": 4, "temperature": 0.0}),
    "ngram-sampled": Kept({"draft": "ngram", "num_draft_tokens": 2, "temperature": 0.3}),
    "skip-greedy": Kept({"draft": "layer-skip", "num_draft_tokens": 6, "temperature": 0.0}),
    "skip-truncated": Kept(
        {"draft": "layer-skip", "num_draft_tokens": 3, "temperature": 1.1, "top_p": 0.9}
    ),
    "model-sampled": Kept(
        {"draft": "near", "num_draft_tokens": 4, "temperature": 0.8, "top_k": 40}
    ),
    "model-link": Kept(
        {"draft": "near", "num_draft_tokens": 1, "rtt_ms": 0.4, "jitter_ms": 0.1, "seed": 7}
    ),
    "foreign-vocabulary": Kept({"draft": "foreign", "num_draft_tokens": 5, "temperature": 0.7}),
    "changed-in-mid-run": Kept(
        {"draft": "layer-skip", "num_draft_tokens": 2, "temperature": 0.5},
        later={"draft": "near", "num_draft_tokens": 5, "temperature": 1.2},
    ),
    "server-score": Kept(
        {"target": "@lab", "draft": "ngram", "num_draft_tokens": 3, "temperature": 0.0},
        protocol="score",
    ),
    "server-prefixes": Kept(
        {"target": "@lab", "draft": "near", "num_draft_tokens": 3, "temperature": 0.8},
        protocol="prefixes",
    ),
}


@cache
def _models() -> Path:
    folder = Path(tempfile.mkdtemp())
    write_tiny_llama(folder / "target", seed=3, layers=4)
    write_tiny_llama(folder / "foreign", seed=4, layers=2, vocab_size=280)
    return folder


@cache
def _load_local(name: str) -> LoadedModel:
    if name == "near":
        target = _load_local("target")
        assert isinstance(target.model, PortableModel)
        return replace(target, model=replace(target.model, name=name, layers=(0, 1, 2)))
    loaded = load_model(str(_models() / name), "portable")
    assert isinstance(loaded.model, PortableModel)
    return replace(loaded, model=replace(loaded.model, name=name))


def _logits(context: Sequence[int]) -> np.ndarray:
    """Return what the server's model, the target itself, says after `context`."""
    model = _load_local("target").model
    assert model is not None
    return model.forward(context, model.new_cache())[-1]


class Recorder:
    """A toy server that writes down what it was asked and what it said."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.said: list[tuple[Any, Any]] = []
        self._server = ToyServer(tokenizer, model=_logits, owner="vllm")
        self._httpserver = HTTPServer()

    def mount(self, httpserver: HTTPServer) -> None:
        self._server.mount(httpserver)
        answer = self._server._answer

        def recording(request: Request, handle: Callable[..., Any]) -> Response:
            response = answer(request, handle)
            said = [request.get_json(), response.status_code, json.loads(response.get_data())]
            self.said.append((request.path, *said))
            return response

        self._server._answer = recording


def _mount_recorded(httpserver: HTTPServer) -> None:
    """Answer as the recording says; a request that was never made before has no answer."""
    recorded = json.loads(gzip.decompress(ANSWERS.read_bytes()))
    answers = {json.dumps([path, asked], sort_keys=True): rest for path, asked, *rest in recorded}
    listing = {"data": [{"id": "toy", "owned_by": "vllm"}]}
    httpserver.expect_request("/v1/models").respond_with_json(listing)

    def answer(request: Request) -> Response:
        status, body = answers[json.dumps([request.path, request.get_json()], sort_keys=True)]
        return Response(json.dumps(body), status, content_type="application/json")

    for path in ("/v1/completions", "/generate", "/completion"):
        httpserver.expect_request(path, method="POST").respond_with_handler(answer)


@contextmanager
def _server(recorder: Recorder | None) -> Iterator[str]:
    with HTTPServer() as httpserver:
        if recorder is not None:
            recorder.mount(httpserver)
        else:
            _mount_recorded(httpserver)
        yield httpserver.url_for("")
        httpserver.check_assertions()


def make(kept: Kept, recorder: Recorder | None = None) -> Run:
    """Make a run; `recorder` puts a toy server in the place of the recorded one."""
    asked = {"target": "target", "max_tokens": 28, "backend": "portable", "seed": 11}
    config = RunConfig(**(asked | kept.config))
    if not kept.protocol:
        return _make(config, kept, lambda name, backend: _load_local(name))
    with _server(recorder) as url:
        tokenizer = _load_local("target").tokenizer
        endpoint = Endpoint(name="lab", url=url, model="toy", protocol=kept.protocol)
        with mock.patch("specdec.targets.server.reference._unseen", "Kept. {}".format):
            remote = connect(endpoint, tokenizer)  # asks what no cache knows, and here always that
        served = LoadedModel(None, tokenizer, remote)
        return _make(
            config, kept, lambda name, backend: served if name == "@lab" else _load_local(name)
        )


def _make(config: RunConfig, kept: Kept, load: Callable[[str, str], LoadedModel]) -> Run:
    pair = _pair(config, load)
    prompt_ids = pair.encode_prompt(PROMPT)
    settings = pair.round_settings(config)
    later = replace(config, **kept.later)
    drafter = make_drafter(later.draft, load(config.target, "portable"), "portable", load)
    settings_later = RoundSettings(drafter, later.num_draft_tokens, later.sampler)
    recorder = RunRecorder.start(config, PROMPT, prompt_ids, pair)
    asked: list[int] = []

    def settings_now() -> RoundSettings:
        asked.append(len(asked))
        return settings_later if kept.later and asked[-1] > 3 else settings

    for event in generate(
        prompt_ids,
        pair.target,
        settings_now,
        max_tokens=config.max_tokens,
        seed=config.seed,
    ):
        recorder.add(event)
    return recorder.run()


def _pair(config: RunConfig, load: Callable[[str, str], LoadedModel]) -> Pair:
    if config.target != "@lab":
        return make_pair(config, load)
    with mock.patch("specdec.pair.find_endpoint", return_value=None):
        return make_pair(config, load)


def facts(trace: bytes) -> list[Any]:
    """Return the lines of a trace without what differs from run to run: times, machine, server."""
    return [_bare(json.loads(line)) for line in trace.splitlines()]


_PASSING = ("environment", "started_at", "digest", "tokens_per_s")


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _bare(one)
            for name, one in value.items()
            if name not in _PASSING and not name.endswith(("_s", "_ms"))
        }
    return [_bare(one) for one in value] if isinstance(value, list) else value


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.jsonl.gz"


def main() -> None:
    recorder = Recorder(_load_local("target").tokenizer)
    for name, kept in KEPT.items():
        run = make(kept, recorder)
        trace = dump_trace(run, only_essential=True)
        path_of(name).write_bytes(gzip.compress(trace, mtime=0))
        statuses = [c.status for r in run.rounds for c in r.candidates]
        print(
            f"{name:20} {run.summary.num_tokens} tokens, {len(run.rounds)} rounds, "
            f"{run.summary.num_accepted_draft_tokens}/{len(statuses)} accepted",
            file=sys.stderr,
        )
    ANSWERS.write_bytes(gzip.compress(json.dumps(recorder.said).encode(), mtime=0))


if __name__ == "__main__":
    main()
