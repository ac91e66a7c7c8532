"""What the command line shows: coloured text, totals in words, and the JSON document."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from specdec.records import RoundResult, RunSummary, TokenStatus, percent
from specdec.runs.run import Run
from specdec.runs.speedup import interval_words, speedup_of

STYLES = {
    TokenStatus.ACCEPTED: "green",
    TokenStatus.RESAMPLED: "bold yellow",
    TokenStatus.BONUS: "blue underline",
}


def print_pieces(result: RoundResult, pieces: Sequence[str], screen: Console) -> None:
    """Add a round's text, coloured by how each token came to be."""
    for token, piece in zip(result.tokens, pieces, strict=True):
        screen.print(Text(printable(piece), STYLES[token.status]), end="")


def print_summary(run: Run, screen: Console) -> None:
    """Say what a run came to, below its text."""
    summary = run.summary
    emulated = " (emulated)" if run.link_is_emulated else ""
    screen.print("\n")
    screen.print(
        Text.assemble(
            ("accepted", STYLES[TokenStatus.ACCEPTED]),
            " · ",
            ("resampled", STYLES[TokenStatus.RESAMPLED]),
            " · ",
            ("bonus or plain", STYLES[TokenStatus.BONUS]),
        )
    )
    if summary.num_draft_tokens:
        screen.print(
            f"{summary.num_accepted_draft_tokens} of {summary.num_draft_tokens} drafted tokens "
            f"accepted ({percent(summary.draft_acceptance_rate)}), "
            f"{summary.tokens_per_target_call:.1f} tokens per target call."
        )
    if summary.tokens_per_s is not None:
        screen.print(
            f"{summary.num_tokens} tokens in {summary.decode_s:.2f} s, "
            f"{summary.tokens_per_s:.1f} tokens/s: draft {summary.draft_s:.2f} s, "
            f"verify {summary.verify_s:.2f} s (link {summary.link_s:.2f} s{emulated}), "
            f"rest {summary.decode_s - summary.draft_s - summary.verify_s:.2f} s; "
            f"the prompt took {summary.prefill_s:.2f} s."
        )
        if summary.retry_s:
            screen.print(
                f"{summary.retry_s:.2f} s of the rest went by with failed calls to the target and "
                "waiting for another attempt."
            )
        speedup = speedup_of(run)
        if speedup is not None and run.baseline is not None:
            screen.print(
                f"{interval_words(speedup.over_link)} × one call per token over the same "
                f"link{emulated}, {interval_words(speedup.alone)} × the target without the link "
                f"(both measured on {run.baseline.num_tokens} tokens; 95 % intervals)."
            )
            if speedup.disturbance:
                screen.print(speedup.disturbance)
    screen.print(
        Text(f"Output: {run.exactness}. On {run.backend}. Finished: {summary.finish_reason}.")
    )


def run_document(run: Run) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "text": run.text,
        "token_ids": list(run.token_ids),
        "config": None if run.config is None else asdict(run.config),
        "target": run.target.name,
        "backend": run.backend,
        "exactness": run.exactness,
        "link_is_emulated": run.link_is_emulated,
        "environment": dict(run.environment),
        "summary": summary_document(run.summary),
        "baseline": baseline_document(run),
    }


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """Return the totals with what is derived from them, under vLLM's names where it has them."""
    return asdict(summary) | {
        "draft_acceptance_rate": summary.draft_acceptance_rate,
        "mean_acceptance_length": summary.mean_acceptance_length,
        "per_position_acceptance": summary.per_position_acceptance,
        "tokens_per_target_call": summary.tokens_per_target_call,
        "tokens_per_s": summary.tokens_per_s,
    }


def baseline_document(run: Run) -> dict[str, Any] | None:
    """Return the measured plain decoding, and the speed-ups over it with their intervals."""
    baseline, found = run.baseline, speedup_of(run)
    if baseline is None:
        return None
    over_link, alone = (found.over_link, found.alone) if found else (None, None)
    return asdict(baseline) | {
        "tokens_per_s": baseline.tokens_per_s,
        "tokens_per_s_without_link": baseline.tokens_per_s_without_link,
        "speedup": over_link and over_link.mean,
        "speedup_interval": over_link and [over_link.low, over_link.high],
        "speedup_without_link": alone and alone.mean,
        "speedup_without_link_interval": alone and [alone.low, alone.high],
        "disturbance": found.disturbance if found else "",
    }


def printable(text: str) -> str:
    """Make control characters visible: what a model writes must not steer the terminal."""
    return "".join(
        char
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf") or char == "\u200d"
        else f"\\u{ord(char):04x}"
        for char in text
    )
