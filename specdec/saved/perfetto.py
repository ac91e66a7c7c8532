"""A run on a time line, as Trace Event JSON for https://ui.perfetto.dev and chrome://tracing.

One lane each for drafting, verifying and sampling, and counters for speed and acceptance. Within a
round the order is draft, verify, sample: the share of sampling that happens while drafting is shown
with the rest of it, at the round's end. Viewers want the events of a lane to nest or to follow each
other, so times are whole nanoseconds and a lane never goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specdec.metrics import RollingWindow, WindowStats
from specdec.records import RoundResult
from specdec.runs.run import Run

PROCESS = 1
LANES = {"draft": 1, "verify": 2, "sample": 3}


def perfetto_trace(run: Run) -> dict[str, Any]:
    """Return the trace document of a run whose rounds are known."""
    return {
        "traceEvents": list(_events(run)),
        "displayTimeUnit": "ms",
        "otherData": {
            "run": run.heading,
            "target": run.target.name,
            "draft": run.drafting,
            "started_at": run.started_at,
            "link": "emulated" if run.link_is_emulated else "as measured",
        },
    }


def _events(run: Run) -> Iterator[dict[str, Any]]:
    yield _name("process_name", 0, f"{run.target.name} ← {run.drafting}")
    for lane, number in LANES.items():
        yield _name("thread_name", number, lane)
    yield _slice("verify", "prefill", 0, _ns(run.summary.prefill_s), {})
    window = RollingWindow()
    free_ns = _ns(run.summary.prefill_s)
    for result in run.rounds:
        start_ns = max(free_ns, _ns(result.started_s))
        free_ns = max(start_ns, _ns(result.started_s + result.wall_s))
        yield from _round_slices(result, start_ns, free_ns, run)
        yield from _counters(window.add(result), free_ns)


def _round_slices(
    result: RoundResult, start_ns: int, end_ns: int, run: Run
) -> Iterator[dict[str, Any]]:
    texts = run.token_texts
    facts = {"round": result.round, "num_draft_tokens": result.num_draft_tokens}
    drafted = min(end_ns, start_ns + _ns(result.draft_s))
    sampling = max(drafted, end_ns - _ns(result.sample_s))
    asked = max(drafted, sampling - _ns(result.verify_s))
    if result.candidates:
        tokens = [texts.get(one.token_id, "") for one in result.candidates]
        draft_facts = facts | {"drafter": result.drafting, "tokens": tokens}
        yield _slice("draft", f"draft {len(tokens)}", start_ns, drafted, draft_facts)
    verify_facts = facts | {
        "accepted": result.num_accepted,
        "link_ms": result.link_s * 1e3,
        "retry_ms": result.retry_s * 1e3,
    }
    yield _slice("verify", f"accept {result.num_accepted}", asked, sampling, verify_facts)
    emitted = [texts.get(token_id, "") for token_id in result.emitted]
    yield _slice("sample", f"emit {len(emitted)}", sampling, end_ns, facts | {"tokens": emitted})


def _counters(stats: WindowStats, time_ns: int) -> Iterator[dict[str, Any]]:
    for name, value in (
        ("tokens per second", stats.tokens_per_s),
        ("draft acceptance rate", stats.draft_acceptance_rate),
    ):
        if value is not None:
            yield {
                "name": name,
                "ph": "C",
                "ts": time_ns / 1e3,
                "pid": PROCESS,
                "args": {"value": value},
            }


def _slice(
    lane: str, name: str, start_ns: int, end_ns: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": lane,
        "ph": "X",
        "ts": start_ns / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
        "pid": PROCESS,
        "tid": LANES[lane],
        "args": args,
    }


def _name(kind: str, lane: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": PROCESS, "tid": lane, "args": {"name": name}}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
