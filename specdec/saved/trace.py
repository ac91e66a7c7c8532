"""A run as a file: JSON Lines, one event a line, versioned.

    header          what was asked, on what: everything but the rounds
    draft_token     one drafted token, as the drafter saw it
    verify_result   one token after its test, drafted or final, with all that decided about it
    round           what the round emitted, and what it cost
    metrics         the dashboard's numbers after the round
    done | error    the totals

`draft_token` and `metrics` are for those who follow the stream of events; they repeat what stands
elsewhere and are not read back. Milliseconds repeat seconds in the same way. The store keeps runs
in this format too (without the repetitions), so there is one reader and one history of versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.codec import dumps, to_json
from specdec.errors import TraceError
from specdec.metrics import RollingWindow, WindowStats
from specdec.records import FinishReason, RoundResult, RunSummary, TokenRecord
from specdec.runs.run import Run
from specdec.saved.files import write_whole
from specdec.saved.reader import FORMAT, HEADER_KINDS, MAX_TRACE_BYTES, VERSION, parse_trace

__all__ = ["dump_trace", "parse_trace", "read_trace", "trace_events", "write_trace"]


def read_trace(path: Path) -> Run:
    """Return the run in a file.

    Raises:
        TraceError: there is no such file, or it is not a whole and sound run.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TRACE_BYTES + 1)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_trace(data, name=path.name)


def write_trace(run: Run, path: Path) -> None:
    """Write `run` to a file; what was there before stays whole until the new file is.

    Raises:
        StoreError: it cannot be written there.
    """
    write_whole(path, dump_trace(run))


def dump_trace(run: Run, *, only_essential: bool = False) -> bytes:
    """Return `run` as JSON Lines; `only_essential` leaves out what is not read back."""
    repeated = ("draft_token", "metrics") if only_essential else ()
    lines = [dumps(event) for event in trace_events(run) if event["event"] not in repeated]
    return "".join(f"{line}\n" for line in lines).encode()


def trace_events(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the lines of the file as JSON objects."""
    header = {name: to_json(getattr(run, name)) for name in HEADER_KINDS}
    yield {"event": "header", "format": FORMAT, "version": VERSION, **header}
    window = RollingWindow()
    for result, pieces in zip(run.rounds, run.round_pieces(), strict=True):
        for index in range(len(result.candidates)):
            yield _draft_token(result, index, run.token_texts)
        yield from _verify_results(result, run.token_texts)
        yield _round(result, pieces)
        yield _metrics(result.round, window.add(result))
    yield _end(run.summary, () if run.rounds else run.pieces)


def _draft_token(result: RoundResult, index: int, texts: Mapping[int, str]) -> dict[str, Any]:
    record = result.candidates[index]
    return {
        "event": "draft_token",
        "round": result.round,
        "index": index,
        "parent": record.parent,
        "position": record.position,
        "token": texts.get(record.token_id),
        "token_id": record.token_id,
        "prob": to_json(record.draft_prob),
        "logprob": to_json(record.draft_logprob),
        "entropy": to_json(record.draft_entropy),
        "top_tokens": [
            {
                "token": texts.get(top.token_id),
                "token_id": top.token_id,
                "logprob": to_json(top.draft_logprob),
            }
            for top in record.top_tokens
            if top.draft_logprob is not None
        ],
        "draft_time_ms": result.draft_s * 1e3,
    }


def _verify_results(result: RoundResult, texts: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Yield one line per candidate and one for the final token.

    `final_token` is what stands at the token's position in the end, None past the round's end.
    """
    final = () if result.final is None else (result.final,)
    standing = {one.position: texts.get(one.token_id) for one in (*result.accepted, *final)}
    for record in (*result.candidates, *final):
        yield {
            "event": "verify_result",
            "round": result.round,
            **_with_texts(record, texts),
            "final_token": standing.get(record.position),
            "verify_latency_ms": result.verify_s * 1e3,
        }


def _with_texts(record: TokenRecord, texts: Mapping[int, str]) -> dict[str, Any]:
    fields: dict[str, Any] = to_json(record)
    for one in (fields, *fields["top_tokens"]):
        one["token"] = texts.get(one["token_id"])
    return fields


def _round(result: RoundResult, pieces: Sequence[str]) -> dict[str, Any]:
    fields = to_json(result)
    del fields["candidates"], fields["final"]
    return {"event": "round", **fields, "texts": list(pieces)}


def _metrics(round_number: int, stats: WindowStats) -> dict[str, Any]:
    return {"event": "metrics", "round": round_number, **to_json(stats)}


def _end(summary: RunSummary, pieces: Sequence[str]) -> dict[str, Any]:
    """Return the last line; `pieces` is the text of a run whose rounds are not known."""
    failed = summary.finish_reason is FinishReason.ERROR
    return {
        "event": "error" if failed else "done",
        **to_json(summary),
        "draft_acceptance_rate": summary.draft_acceptance_rate,
        "mean_acceptance_length": summary.mean_acceptance_length,
        "tokens_per_s": summary.tokens_per_s,
        "texts": list(pieces),
    }
