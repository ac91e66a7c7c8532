"""The files a run can be taken away as; each is one function from a run to bytes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from specdec.errors import TraceError
from specdec.records import RoundResult, TokenRecord
from specdec.runs.run import Run
from specdec.saved.perfetto import perfetto_trace
from specdec.saved.share_html import share_page
from specdec.saved.trace import dump_trace, parse_trace
from specdec.saved.vllm_summary import parse_vllm_summary, vllm_summary


@dataclass(frozen=True, slots=True)
class Export:
    """One kind of file; `needs_rounds` says that totals alone are not enough for it."""

    name: str
    label: str
    suffix: str
    mime: str
    needs_rounds: bool
    make: Callable[[Run], bytes]


def read_run(data: bytes, *, name: str = "The file") -> Run:
    """Return the run in an uploaded file: a trace of ours, or a vLLM response with its totals.

    Raises:
        TraceError: it is neither, or not sound.
    """
    if not data.strip():
        raise TraceError(f"{name} is empty.")
    first_line = data[:200].lstrip()
    if first_line.startswith(b"{") and b'"header"' in first_line:
        return parse_trace(data, name=name)
    return parse_vllm_summary(data, name=name)


# -- one row per token ---------------------------------------------------------------------------

_TOKEN_FIELDS = (
    "parent",
    "position",
    "token_id",
    "status",
    "draft_prob",
    "target_prob",
    "draft_logprob",
    "target_logprob",
    "acceptance_prob",
    "uniform",
    "expected_acceptance",
    "draft_entropy",
    "target_entropy",
)
_ROUND_FIELDS = (
    "num_draft_tokens",
    "temperature",
    "started_s",
    "draft_s",
    "verify_s",
    "link_s",
    "state_bytes",
    "num_sequences",
    "retry_s",
    "sample_s",
    "wall_s",
)
TOKEN_COLUMNS = ("round", "index", "token", *_TOKEN_FIELDS, "drafter", *_ROUND_FIELDS)


def token_csv(run: Run) -> bytes:
    """Return a row for every drafted and every final token, with its round's settings and times.

    Texts are JSON strings: newlines and quotes are visible, and no spreadsheet takes a token that
    begins with "=" for a formula.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TOKEN_COLUMNS)
    for result in run.rounds:
        for index, record in enumerate(result.candidates):
            writer.writerow(_csv_row(run, result, record, str(index)))
        if result.final is not None:
            writer.writerow(_csv_row(run, result, result.final, ""))
    return file.getvalue().encode()


def _csv_row(run: Run, result: RoundResult, record: TokenRecord, index: str) -> list[Any]:
    return [
        result.round,
        index,
        _quoted(run.token_texts.get(record.token_id, "")),
        *(getattr(record, name) for name in _TOKEN_FIELDS),
        _quoted(result.drafting),
        *(getattr(result, name) for name in _ROUND_FIELDS),
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- Spec-Bench ----------------------------------------------------------------------------------


def spec_bench(runs: Sequence[Run]) -> bytes:
    """Return an answer file of Spec-Bench (Xia et al. 2024), one question per run.

    Its `speed.py` divides `new_tokens` by `wall_time`, reading the prompt included, and averages
    `accept_lengths`, which counts the tokens emitted per step; its `equal.py` compares `turns`.
    The category is the run's first tag; `--task overall` takes all.
    """
    lines = [
        json.dumps(_answer(run, number), ensure_ascii=False) for number, run in enumerate(runs)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _answer(run: Run, question_id: int) -> dict[str, Any]:
    config, summary = run.config, run.summary
    settings = f"-k{config.num_draft_tokens}-temp{config.temperature:g}" if config else ""
    identity = f"{run.started_at} {run.prompt} {run.token_ids}"
    return {
        "question_id": question_id,
        "category": run.tags[0] if run.tags else "overall",
        "answer_id": hashlib.sha256(identity.encode()).hexdigest()[:22],
        "model_id": f"{run.target.name}-{run.drafting}{settings}",
        "choices": [
            {
                "index": 0,
                "turns": [run.text],
                "decoding_steps": [summary.num_target_calls],
                "new_tokens": [summary.num_tokens],
                "wall_time": [summary.wall_s],
                "accept_lengths": [len(result.emitted) for result in run.rounds],
            }
        ],
        "tstamp": datetime.fromisoformat(run.started_at).timestamp(),
    }


# -- the list ------------------------------------------------------------------------------------


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


EXPORTS = (
    Export(
        "trace", "Trace, to open it here again", ".jsonl", "application/jsonl", False, dump_trace
    ),
    Export(
        "html",
        "Page to share",
        ".html",
        "text/html",
        False,
        lambda run: share_page(run).encode(),
    ),
    Export("csv", "Table of all tokens", ".csv", "text/csv", True, token_csv),
    Export(
        "perfetto",
        "Time line for Perfetto",
        ".perfetto.json",
        "application/json",
        True,
        lambda run: _json(perfetto_trace(run)),
    ),
    Export(
        "spec-bench",
        "Spec-Bench answer",
        ".spec-bench.jsonl",
        "application/jsonl",
        True,
        lambda run: spec_bench([run]),
    ),
    Export(
        "vllm",
        "Totals under vLLM's names",
        ".vllm.json",
        "application/json",
        False,
        lambda run: _json(vllm_summary(run)),
    ),
)
