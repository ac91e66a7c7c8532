"""vLLM's per-request acceptance metrics, written and read.

The shape is that of a completions response with `metrics.speculative_decoding` (the server's
`--per-request-spec-decode-metrics detailed`, documented in vLLM's "Per-Request Acceptance Metrics")
beside the timings of `--enable-per-request-metrics`. Both are experimental in vLLM; what is not in
a file stays unknown here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from specdec.codec import from_json, loads
from specdec.errors import SettingsError, TraceError
from specdec.records import FinishReason, RunSummary
from specdec.runs.run import ModelInfo, Run, utc_now
from specdec.saved.reader import check_totals

MAX_SUMMARY_BYTES = 16 * 2**20
_MAX_DRAFT_TOKENS = 1024


# -- writing -------------------------------------------------------------------------------------


def vllm_summary(run: Run) -> dict[str, Any]:
    """Return `run` as a vLLM response would report it."""
    summary = run.summary
    speculative = [result for result in run.rounds if result.candidates]
    longest = len(summary.drafted_per_pos) or max(len(summary.acceptance_histogram) - 1, 0)
    histogram = list(summary.acceptance_histogram)
    metrics: dict[str, Any] = {
        "mean_acceptance_length": summary.mean_acceptance_length,
        "draft_acceptance_rate": summary.draft_acceptance_rate,
        "acceptance_histogram": histogram + [0] * (longest + 1 - len(histogram)),
        "num_spec_steps": summary.num_spec_steps,
        "num_accepted_draft_tokens": summary.num_accepted_draft_tokens,
        "num_draft_tokens": summary.num_draft_tokens,
        "num_spec_tokens": longest,
    }
    if run.rounds:
        metrics |= {
            "acceptance_histogram_by_draft_length": _histograms_by_length(run),
            "per_step_accepted": [result.num_accepted for result in speculative],
            "per_step_drafted": [result.num_drafted for result in speculative],
        }
    return {
        "object": "text_completion",
        "model": run.target.name,
        "choices": [{"index": 0, "text": run.text, "finish_reason": summary.finish_reason.value}],
        "usage": {
            "prompt_tokens": summary.num_prompt_tokens,
            "completion_tokens": summary.num_tokens,
            "total_tokens": summary.num_prompt_tokens + summary.num_tokens,
        },
        "metrics": {**_timings(summary), "speculative_decoding": metrics},
    }


def _timings(summary: RunSummary) -> dict[str, float]:
    if summary.ttft_s is None:
        return {}
    return {
        "time_to_first_token_ms": summary.ttft_s * 1e3,
        "generation_time_ms": (summary.wall_s - summary.ttft_s) * 1e3,
    }


def _histograms_by_length(run: Run) -> dict[str, list[int]]:
    """Count accepted tokens per round apart for each number of drafted tokens."""
    lengths = sorted({result.num_drafted for result in run.rounds if result.candidates})
    counts = {length: [0] * (length + 1) for length in lengths}
    for result in run.rounds:
        if result.candidates:
            counts[result.num_drafted][result.num_accepted] += 1
    return {str(length): histogram for length, histogram in counts.items()}


# -- reading -------------------------------------------------------------------------------------


def parse_vllm_summary(data: bytes, *, name: str = "The file") -> Run:
    """Return the totals in a vLLM response as a run without rounds.

    Raises:
        TraceError: there are none, or they contradict themselves.
    """
    if len(data) > MAX_SUMMARY_BYTES:
        raise TraceError(f"{name} is larger than {MAX_SUMMARY_BYTES // 2**20} MB.")
    try:
        response = loads(data)
        metrics = _find_metrics(response)
        summary = _read_summary(response, metrics)
        check_totals(summary)
        return _summary_run(response, summary)
    except (TraceError, SettingsError) as error:
        raise TraceError(f"{name}: {str(error).rstrip('.')}.") from None


def _find_metrics(response: Any) -> dict[str, Any]:
    """Return the `speculative_decoding` object, wherever in a response it stands."""
    found = response
    for key in ("metrics", "speculative_decoding"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if not isinstance(found, dict) or "num_spec_steps" not in found:
        raise TraceError(
            "this is neither a saved run nor a response of vLLM with metrics.speculative_decoding"
        )
    return found


def _read_summary(response: dict[str, Any], metrics: dict[str, Any]) -> RunSummary:
    steps, accepted, drafted = (
        from_json(int, metrics.get(key), key)
        for key in ("num_spec_steps", "num_accepted_draft_tokens", "num_draft_tokens")
    )
    histogram = from_json(
        tuple[int, ...], metrics.get("acceptance_histogram"), "acceptance_histogram"
    )
    if len(histogram) > _MAX_DRAFT_TOKENS + 1:
        raise TraceError(f"acceptance_histogram has more than {_MAX_DRAFT_TOKENS + 1} entries")
    usage = _part(response, "usage")
    num_tokens = from_json(
        int, usage.get("completion_tokens", accepted + steps), "completion_tokens"
    )
    timings = _part(response, "metrics")
    ttft_ms = from_json(
        float | None, timings.get("time_to_first_token_ms"), "time_to_first_token_ms"
    )
    decode_ms = from_json(float | None, timings.get("generation_time_ms"), "generation_time_ms")
    return RunSummary(
        finish_reason=_finish_reason(response),
        num_prompt_tokens=from_json(int, usage.get("prompt_tokens", 0), "prompt_tokens"),
        num_tokens=num_tokens,
        num_spec_steps=steps,
        # A step emits what it accepted and one more; every further token took a plain step.
        num_target_calls=steps + max(0, num_tokens - accepted - steps),
        num_draft_tokens=drafted,
        num_accepted_draft_tokens=accepted,
        acceptance_histogram=histogram,
        accepted_per_pos=tuple(accumulate(reversed(histogram[1:])))[::-1],
        drafted_per_pos=_drafted_per_pos(metrics),
        prefill_s=(ttft_ms or 0.0) / 1e3,
        draft_s=0.0,
        verify_s=0.0,
        link_s=0.0,
        retry_s=0.0,
        sample_s=0.0,
        wall_s=((ttft_ms or 0.0) + (decode_ms or 0.0)) / 1e3,
        ttft_s=None if ttft_ms is None else ttft_ms / 1e3,
    )


def _drafted_per_pos(metrics: dict[str, Any]) -> tuple[int, ...]:
    """Return how often a draft reached each position, empty where the file does not say."""
    lengths = from_json(tuple[int, ...], metrics.get("per_step_drafted", []), "per_step_drafted")
    longest = max(lengths, default=0)
    if longest > _MAX_DRAFT_TOKENS:
        raise TraceError(f"per_step_drafted has a step of more than {_MAX_DRAFT_TOKENS} tokens")
    return tuple(sum(length > place for length in lengths) for place in range(longest))


def _finish_reason(response: dict[str, Any]) -> FinishReason:
    """Return why the response ended; "stop" where that is not known."""
    known = {"length": FinishReason.LENGTH, "abort": FinishReason.STOPPED}
    return known.get(str(_choice(response).get("finish_reason")), FinishReason.STOP)


def _summary_run(response: dict[str, Any], summary: RunSummary) -> Run:
    model = from_json(str, response.get("model", "not known"), "model")
    choice = _choice(response)
    text = choice.get("text", _part(choice, "message").get("content")) or ""
    created = response.get("created")
    started_at = utc_now()
    if isinstance(created, int) and 0 < created < 2**32:
        started_at = datetime.fromtimestamp(created, UTC).isoformat()
    return Run(
        config=None,
        prompt="",
        prompt_ids=(),
        target=ModelInfo(model),
        draft=ModelInfo("not known"),
        backend="vllm",
        exactness="not known: these are the totals of another program",
        link_is_emulated=False,
        environment={},
        started_at=started_at,
        rounds=(),
        pieces=(from_json(str, text, "the text"),),
        token_texts={},
        summary=summary,
        title=f"vLLM: {model}".replace("\0", "\ufffd"),
        note="Imported totals of a vLLM response.",
    )


def _choice(response: dict[str, Any]) -> dict[str, Any]:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def _part(value: dict[str, Any], key: str) -> dict[str, Any]:
    part = value.get(key)
    return part if isinstance(part, dict) else {}
