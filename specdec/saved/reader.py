"""From a trace file back to a run, trusting nothing in it.

A file may be cut off, made by hand or made to do harm. Every line is bounded, every field checked,
and what the parts say about each other must agree; the first thing that does not is the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from specdec.codec import MAX_INT, from_json, loads
from specdec.errors import SettingsError, TraceError
from specdec.metrics import Baseline, Block, Totals
from specdec.records import RoundResult, RunSummary, TokenRecord, TokenStatus
from specdec.runs.run import Run
from specdec.sampling import MAX_TEMPERATURE
from specdec.settings import MAX_NUM_DRAFT_TOKENS

FORMAT = "specdec-trace"
VERSION = 1
MAX_TRACE_BYTES = 200 * 2**20
"""As much as Streamlit uploads: four times the longest run with K = 4."""
MAX_LINE_BYTES = 4 * 2**20

HEADER_KINDS = {
    name: kind
    for name, kind in get_type_hints(Run).items()
    if name not in ("rounds", "pieces", "token_texts", "summary")
}
_DRAFTED = (TokenStatus.ACCEPTED, TokenStatus.REJECTED, TokenStatus.DISCARDED)
_FINAL = (TokenStatus.RESAMPLED, TokenStatus.BONUS)
MAX_TIME_S = 1e9
MIN_TOKEN_S = 1e-9
"""No target decodes a token in less; a speed made of it could not be told from infinity."""
_CLOCK_S = 1e-3
"""Shares of a call are differences of times that two clocks took."""


def parse_trace(data: bytes, *, name: str = "The file", max_bytes: int = MAX_TRACE_BYTES) -> Run:
    """Return the run in `data`; `name` is what errors call it.

    Raises:
        TraceError: it is too long, cut off, of another version, or not sound.
    """
    if len(data) > max_bytes:
        raise TraceError(f"{name} is larger than {max_bytes // 2**20} MB.")
    reader = _Reader()
    for number, line in enumerate(_lines(data), start=1):
        try:
            reader.read(line)
        except TraceError as error:
            raise TraceError(f"{name}, line {number}: {str(error).rstrip('.')}.") from None
    if reader.summary is None:
        raise TraceError(f"{name} is empty or cut off: the end of the run is missing.")
    try:
        return reader.run()
    except (SettingsError, TraceError) as error:
        raise TraceError(f"{name}: {str(error).rstrip('.')}.") from None


def _lines(data: bytes) -> Iterator[bytes]:
    """Yield the lines one by one, without a copy of the whole."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end + 1


@dataclass(slots=True)
class _Reader:
    """What the lines so far have said."""

    header: dict[str, Any] | None = None
    rounds: list[RoundResult] = field(default_factory=list)
    num_emitted: int = 0
    records: list[TokenRecord] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    token_texts: dict[int, str] = field(default_factory=dict)
    summary: RunSummary | None = None

    def read(self, line: bytes) -> None:
        """Take in one line."""
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(f"it is longer than {MAX_LINE_BYTES // 2**20} MB")
        value = loads(line)
        if not isinstance(value, dict):
            raise TraceError("it is not an object")
        event = value.get("event")
        if self.header is None:
            self._read_header(event, value)
        elif self.summary is not None:
            raise TraceError("it stands after the end of the run")
        elif event == "verify_result":
            self._read_record(value)
        elif event == "round":
            self._read_round(value)
        elif event in ("done", "error"):
            self._read_end(value)
        elif event not in ("draft_token", "metrics"):
            raise TraceError(f"{event!r:.40} is no event of a run")

    def run(self) -> Run:
        assert self.header is not None
        assert self.summary is not None
        return Run(
            **self.header,
            rounds=tuple(self.rounds),
            pieces=tuple(self.pieces),
            token_texts=self.token_texts,
            summary=self.summary,
        )

    def _read_header(self, event: Any, value: dict[str, Any]) -> None:
        if event != "header" or value.get("format") != FORMAT:
            raise TraceError("it is not the beginning of a saved run")
        version = from_json(int, value.get("version"), "version")
        if version != VERSION:
            raise TraceError(
                f"this is version {version} of the format, and only version {VERSION} can be "
                "read: update the program that is older"
            )
        for name in HEADER_KINDS:
            if name not in value:
                raise TraceError(f"{name} is missing")
        self.header = {
            name: from_json(kind, value[name], name) for name, kind in HEADER_KINDS.items()
        }
        if self.header["baseline"] is not None:
            _check_baseline(self.header["baseline"])

    def _read_record(self, value: dict[str, Any]) -> None:
        if value.get("round") != len(self.rounds):
            raise TraceError("it does not belong to the round that stands here")
        record = from_json(TokenRecord, value, "the token")
        _check_record(record)
        self.records.append(record)
        for one in (value, *value.get("top_tokens", ())):
            text = from_json(str | None, one.get("token"), "token")
            if text is not None:
                self.token_texts[one["token_id"]] = text

    def _read_round(self, value: dict[str, Any]) -> None:
        has_final = bool(self.records) and self.records[-1].status in _FINAL
        candidates = self.records[:-1] if has_final else self.records
        bare = from_json(RoundResult, {**value, "candidates": [], "final": None}, "the round")
        result = replace(
            bare,
            candidates=tuple(candidates),
            final=self.records[-1] if has_final else None,
        )
        pieces = from_json(tuple[str, ...], value.get("texts"), "texts")
        _check_round(result, len(self.rounds), self.num_emitted, len(pieces))
        self.rounds.append(result)
        self.num_emitted += len(result.emitted)
        self.pieces += pieces
        self.records = []

    def _read_end(self, value: dict[str, Any]) -> None:
        if self.records:
            raise TraceError("the round before it is not complete")
        summary = from_json(RunSummary, value, "the totals")
        check_totals(summary)
        if self.rounds:
            _check_sums(summary, self.rounds)
        else:
            self.pieces += from_json(tuple[str, ...], value.get("texts"), "texts")
        self.summary = summary


_Range = tuple[float, float]
_ROUNDING = 1e-4
"""By how much a sum of probabilities may be off 1; those of servers are given to a few digits."""
_PROBABILITY: _Range = (0.0, 1.0 + _ROUNDING)
_LOGPROB: _Range = (-math.inf, _ROUNDING)
_ENTROPY: _Range = (-_ROUNDING, 64.0)
_TOKEN_ID: _Range = (0, 2**31 - 1)
_TOP_TOKEN_RANGES: Mapping[str, _Range] = {
    "token_id": _TOKEN_ID,
    "draft_prob": _PROBABILITY,
    "target_prob": _PROBABILITY,
    "draft_logprob": _LOGPROB,
    "target_logprob": _LOGPROB,
}
_RECORD_RANGES: Mapping[str, _Range] = {
    **_TOP_TOKEN_RANGES,
    "acceptance_prob": _PROBABILITY,
    "uniform": (0.0, 1.0),
    "expected_acceptance": _PROBABILITY,
    "draft_entropy": _ENTROPY,
    "target_entropy": _ENTROPY,
}
_ROUND_RANGES: Mapping[str, _Range] = {
    "num_draft_tokens": (0, MAX_NUM_DRAFT_TOKENS),
    "temperature": (0.0, MAX_TEMPERATURE),
    "top_k": (0, MAX_INT),
    "top_p": (0.0, 1.0),
    "state_bytes": (0, MAX_INT),
    "num_sequences": (0, MAX_INT),
}


def _check_ranges(value: object, ranges: Mapping[str, _Range]) -> None:
    """Refuse a number that cannot mean what its name says; NaN never can."""
    for name, (low, high) in ranges.items():
        found = getattr(value, name)
        if found is not None and not low <= found <= high:
            raise TraceError(f"{name} cannot be {found:g}: it lies between {low:g} and {high:g}")


def _check_record(record: TokenRecord) -> None:
    _check_ranges(record, _RECORD_RANGES)
    for top in record.top_tokens:
        _check_ranges(top, _TOP_TOKEN_RANGES)


def _check_round(result: RoundResult, number: int, position: int, num_pieces: int) -> None:
    """Refuse a round that no engine could have made."""
    if (result.round, result.position) != (number, position):
        raise TraceError(f"it must be round {number} at position {position}")
    if not _is_tree(result):
        raise TraceError("its tokens do not form a tree that was walked from the root")
    if result.emitted != tuple(token.token_id for token in result.tokens):
        raise TraceError("what it emitted is not what was accepted")
    if num_pieces != len(result.emitted):
        raise TraceError("it needs one text for each emitted token")
    _check_ranges(result, _ROUND_RANGES)
    _check_times(result)


def _is_tree(result: RoundResult) -> bool:
    """Say whether parents come first, positions follow, and the accepted tokens are one path."""
    positions: list[int] = []
    end = -1
    for index, one in enumerate(result.candidates):
        if one.status not in _DRAFTED or not -1 <= one.parent < index:
            return False
        positions.append(positions[one.parent] + 1 if one.parent >= 0 else result.position)
        if one.position != positions[index]:
            return False
        if one.status is TokenStatus.ACCEPTED:
            if one.parent != end:
                return False
            end = index
    final = result.final
    place = positions[end] + 1 if end >= 0 else result.position
    return final is None or (final.parent, final.position) == (end, place)


def check_totals(summary: RunSummary) -> None:
    """Refuse totals that contradict themselves, so that no rate made of them can fail.

    Raises:
        TraceError: they do.
    """
    _check_times(summary)
    steps, accepted = summary.num_spec_steps, summary.num_accepted_draft_tokens
    histogram, per_pos = summary.acceptance_histogram, summary.accepted_per_pos
    counts = [summary.num_prompt_tokens, summary.num_tokens, summary.num_target_calls]
    if min(*counts, accepted, *histogram, *per_pos, *summary.drafted_per_pos) < 0:
        raise TraceError("num_prompt_tokens and all other counts must be 0 or more")
    if not (accepted <= summary.num_draft_tokens and steps <= summary.num_target_calls):
        raise TraceError("more was accepted or drafted than there was")
    if sum(histogram) != steps or sum(n * times for n, times in enumerate(histogram)) != accepted:
        raise TraceError("acceptance_histogram does not add up to the rounds and accepted tokens")
    if sum(per_pos) != accepted or max(per_pos, default=0) > steps:
        raise TraceError("accepted_per_pos does not add up to the accepted tokens")


def _check_sums(summary: RunSummary, rounds: list[RoundResult]) -> None:
    """Compare what was counted; sums of floats may differ between versions of Python."""
    counted = Totals(rounds).summary(
        num_prompt_tokens=summary.num_prompt_tokens,
        prefill_s=summary.prefill_s,
        finish_reason=summary.finish_reason,
    )
    for name, kind in get_type_hints(RunSummary).items():
        is_count = kind in (int, tuple[int, ...])
        if is_count and getattr(summary, name) != getattr(counted, name):
            raise TraceError(f"{name} is not what the rounds add up to")


def _check_times(value: RoundResult | RunSummary | Baseline) -> None:
    for spec in fields(value):
        seconds = getattr(value, spec.name) if spec.name.endswith("_s") else None
        if seconds is not None and not -_CLOCK_S <= seconds <= MAX_TIME_S:  # NaN compares false
            raise TraceError(f"{spec.name} is no time in seconds: {seconds!r}")


def _check_baseline(baseline: Baseline) -> None:
    _check_times(baseline)
    computing_s = baseline.decode_s - baseline.link_s
    if not (baseline.num_tokens > 0 and baseline.link_s >= 0):
        raise TraceError("the baseline holds no tokens, or less than no time on the link")
    if not computing_s >= MIN_TOKEN_S * baseline.num_tokens:
        raise TraceError("the baseline holds no time spent on decoding")
    for block in baseline.blocks:
        _check_block(block)
    if baseline.blocks and sum(len(b.calls_s) for b in baseline.blocks) != baseline.num_tokens:
        raise TraceError("the blocks of the baseline do not add up to its tokens")


def _check_block(block: Block) -> None:
    if not block.calls_s or len(block.calls_s) != len(block.links_s):
        raise TraceError("a block of the baseline does not tell the link's share of each call")
    for call_s, link_s in zip(block.calls_s, block.links_s, strict=True):
        if not (0 <= link_s <= call_s <= MAX_TIME_S and call_s - link_s >= MIN_TOKEN_S):
            raise TraceError("a call of the baseline is no time in seconds")
    for wide in block.wide:
        if wide.num_drafted < 1 or not 0 < wide.call_s <= MAX_TIME_S:
            raise TraceError("a wider call of the baseline is no time in seconds, or not wider")
