"""What a vLLM server counts of its own speculation, before and after an answer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from werkzeug import Response

from specdec.errors import SettingsError
from specdec.lab.own_server import stream_run
from specdec.lab.plan import Arm
from specdec.lab.plan_file import parse_plan
from specdec.lab.results import Measured
from specdec.lab.runner import SweepRunner
from specdec.pair import LoadedModel
from specdec.sampling import Sampler
from specdec.saved.store import RunStore
from specdec.targets.server.http import Connection
from specdec.targets.server.own_speculation import OwnSpeculation, read_counters
from specdec.targets.server.probe import probe
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import measure_streaming, speculation_words
from tests.targets.server.test_streaming import events, text
from tests.targets.server.toy_server import ToyServer

SAMPLER = Sampler(0.0)
HEAD = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
"""


def metrics(drafts, drafted, per_pos, *, suffix="_total", engines=1):
    lines = []
    for engine in range(engines):
        labels = f'engine="{engine}",model_name="toy"'
        name = "vllm:spec_decode_num"
        lines += [
            f"{name}_drafts{suffix}{{{labels}}} {float(drafts)}",
            f"{name}_draft_tokens{suffix}{{{labels}}} {float(drafted)}",
            f"{name}_accepted_tokens{suffix}{{{labels}}} {float(sum(per_pos))}",
            f"{name}_drafts_created{{{labels}}} 1.7e9",
        ]
        lines += [
            f'{name}_accepted_tokens_per_pos{suffix}{{{labels},position="{place}"}} {float(count)}'
            for place, count in enumerate(per_pos)
        ]
    return HEAD + "\n".join(lines) + "\n"


@pytest.fixture
def connection(httpserver, endpoint):
    return Connection(endpoint())


@pytest.fixture
def target(httpserver, endpoint, tokenizer):
    ToyServer(tokenizer, owner="vllm").mount(httpserver)
    connection = Connection(endpoint(protocol="prefixes"))
    made = RemoteTarget(connection, tokenizer, probe(connection, tokenizer))
    httpserver.clear()
    return made


def serve(httpserver, *pages, answer=("a", "b", "c", "d", "e", "f")):
    queue = list(pages)
    httpserver.expect_request("/metrics").respond_with_handler(
        lambda request: Response(queue.pop(0), content_type="text/plain")
    )
    usage = {"choices": [], "usage": {"completion_tokens": len(answer)}}
    httpserver.expect_request("/v1/completions").respond_with_handler(
        lambda request: events(*map(text, answer), usage, "[DONE]")
    )


@pytest.mark.parametrize("suffix", ["_total", ""])
@pytest.mark.parametrize("engines", [1, 2])
def test_counters_are_read_under_both_names_and_over_all_engines(
    httpserver, connection, suffix, engines
):
    serve(httpserver, metrics(10, 30, [8, 5, 2], suffix=suffix, engines=engines))
    found = read_counters(connection)
    assert found == OwnSpeculation(
        10 * engines, 30 * engines, 15 * engines, tuple(n * engines for n in (8, 5, 2))
    )
    assert found.draft_acceptance_rate == 0.5
    assert found.mean_acceptance_length == 2.5
    assert found.histogram == tuple(n * engines for n in (2, 3, 3, 2))


@pytest.mark.parametrize("page", ["", "<html>", "vllm:num_requests_running 1.0", "\x00" * 99])
def test_a_page_without_counters_is_no_speculation(httpserver, connection, page):
    serve(httpserver, page)
    assert read_counters(connection) is None


def test_a_server_without_metrics_is_no_fault(httpserver, connection):
    httpserver.expect_request("/metrics").respond_with_data("no", status=404)
    assert read_counters(connection) is None


def test_what_an_answer_added_is_told(httpserver, target):
    serve(httpserver, metrics(100, 300, [80, 50, 20]), metrics(103, 309, [82, 51, 20]))
    measured = measure_streaming(target, [42, 7], SAMPLER, 6)
    assert measured.speculation == OwnSpeculation(3, 9, 3, (2, 1, 0))
    said = speculation_words(measured.speculation)
    assert "3 of 9 drafted tokens accepted (33.3 %)" in said
    assert "2.00 tokens per step" in said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((100, 300, [80, 50, 20]), (3, 9, [2, 1, 0])),  # began anew
        ((100, 300, [80, 50, 20]), (100, 300, [80, 50, 20])),  # did not speculate
        ((100, 300, [80, 50, 20]), (200, 600, [160, 100, 40])),  # served others
        ((100, 300, [80, 50, 20]), (103, 303, [82, 51, 21])),  # accepted more than it drafted
    ],
)
def test_counts_that_one_answer_cannot_explain_are_left_out(httpserver, target, before, after):
    serve(httpserver, metrics(*before), metrics(*after))
    assert measure_streaming(target, [42, 7], SAMPLER, 6).speculation is None


class TestInTheLab:
    @pytest.fixture
    def load(self, target):
        return lambda name, place: LoadedModel(None, target.tokenizer, target)

    @pytest.fixture
    def plan(self):
        return parse_plan(
            "target = '@toy'\ndrafts = ['server', 'ngram']\nk = [1, 2]\nmax_tokens = 6\n"
            "[prompts]\nclasses = ['code']\nper_class = 1"
        )

    def test_its_own_streaming_is_one_arm_beside_ours(self, plan):
        assert [arm.draft for arm in plan.arms] == ["none", "server", "ngram", "ngram"]
        with pytest.raises(SettingsError, match="is no server"):
            parse_plan("drafts = ['server']")

    def test_its_run_is_kept_with_what_the_server_counted(self, httpserver, plan, load, tmp_path):
        with closing(RunStore(tmp_path / "runs.db")) as store:
            kept = []
            runner = SweepRunner(
                plan, (), lambda cell, run: kept.append(store.save(run)), load=load
            )
            cell = next(one for one in plan.cells if one.arm == Arm("server", 0))
            pages = [metrics(100 + n, 300 + 3 * n, [80 + n, 50, 20]) for n in (0, 2, 2, 4)]
            serve(httpserver, *pages)
            assert runner.measure(cell) is None
            (run_id,) = kept
            run = store.load(run_id)
        assert run.is_summary_only
        assert run.text == "abcdef"
        assert run.summary.num_accepted_draft_tokens == 2
        assert run.summary.num_target_calls == 4
        assert run.summary.draft_acceptance_rate == pytest.approx(1 / 3)
        (measured,) = runner.results.cells
        assert isinstance(measured, Measured)
        assert measured.acceptance == pytest.approx(1 / 3)

    def test_an_emulated_link_is_refused(self, plan, load):
        config = replace(plan.config(plan.cells[0]), rtt_ms=5.0)
        with pytest.raises(SettingsError, match="emulated link"):
            stream_run(config, "Hello", load)
