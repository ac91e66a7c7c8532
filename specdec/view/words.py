"""What the page says in words: states, totals, and text that must not be read as Markdown."""

from __future__ import annotations

import re

from specdec.block import TOKEN_RULE
from specdec.metrics import Baseline
from specdec.perform import Phase
from specdec.records import FIXED_POLICY, FinishReason, RoundSetting, RunSummary
from specdec.records import percent as percent  # a word of the page like the others
from specdec.runs.speedup import call_interval
from specdec.view.run_view import RunView

TOTALS_MEANING = (
    "Measured, over the whole run. Drafted: sent to the target to be checked. Accepted: counted "
    "when they are checked, also where the end of the answer cut them off. Tokens per target call: "
    "all tokens written over all calls; plain decoding has 1."
)

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$~:&])")


def plain(text: str) -> str:
    """Escape `text` so that Streamlit's Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def state_word(phase: Phase, *, is_comparing: bool = False) -> tuple[str, str]:
    """Return the colour and the name of what a run is doing, or the plain decoding after it."""
    match phase:
        case Phase.LOADING:
            return "gray", "Getting ready"
        case Phase.BASELINE:
            return "violet", "Measuring the baseline"
        case Phase.READING:
            return "gray", "Reading the prompt"
        case Phase.DRAFTING:
            return "gray", "Drafting"
        case Phase.VERIFYING:
            return "blue", "Verifying"
        case Phase.STOPPED:
            return "orange", "Stopped"
        case Phase.FAILED:
            return "red", "Failed"
        case Phase.FINISHED:
            return ("violet", "Plain decoding") if is_comparing else ("green", "Finished")


def shown_state(view: RunView) -> tuple[str, str]:
    """Return the colour and the name of the moment that a slower picture shows."""
    return ("gray", "Drafting") if view.pending is None else ("blue", "Verifying")


def ending(summary: RunSummary) -> str:
    """Say why a run ended."""
    return {
        FinishReason.STOP: "the model ended its answer",
        FinishReason.LENGTH: "the limit of tokens was reached",
        FinishReason.STOPPED: "you stopped it; what was written is kept",
        FinishReason.ERROR: "an error ended it; what was written is kept",
    }[summary.finish_reason]


def baseline_words(baseline: Baseline, *, link: str) -> str:
    """Say what the speed-ups are measured against, when it was measured, and on how much."""
    over = f" over the {link} link" if link else ""
    said = f"Plain decoding: {baseline.tokens_per_s:.1f} tokens/s{over}"
    if not baseline.blocks:
        return f"{said}, measured on {baseline.num_tokens} tokens."
    call = call_interval(baseline)
    assert call.low is not None
    assert call.high is not None
    shares = f", of which the link {1e3 * baseline.link_call_s:.1f}" if link else ""
    when = "before and after this run" if len(baseline.blocks) > 1 else "before this run"
    return (
        f"{said}, a call {1e3 * call.mean:.1f} ms "
        f"({1e3 * call.low:.1f}–{1e3 * call.high:.1f}){shares}: the median of "
        f"{call.num_values} calls, measured {when}."
    )


def totals(summary: RunSummary) -> str:
    """Return the run so far in one sentence."""
    if not summary.num_target_calls:
        return "Nothing has been written yet."
    calls = f"{summary.num_tokens} tokens in {summary.num_target_calls} target calls"
    if not summary.num_draft_tokens:
        return f"{calls}; nothing was drafted."
    return (
        f"{summary.num_accepted_draft_tokens} of {summary.num_draft_tokens} drafted tokens "
        f"accepted ({percent(summary.draft_acceptance_rate)}); {calls}, "
        f"{summary.tokens_per_target_call:.1f} tokens per target call."
    )


def settings_words(setting: RoundSetting) -> str:
    """Return what a round ran with, as far as it can be set anew in mid-run."""
    parts = [f"temperature {setting.temperature:g}"]
    if setting.num_draft_tokens is not None:
        parts.insert(0, f"K {setting.num_draft_tokens}")
    if setting.policy != FIXED_POLICY:
        parts.insert(0, f"K by the {setting.policy} policy")
    if setting.top_k:
        parts.append(f"top-k {setting.top_k}")
    if setting.top_p < 1:
        parts.append(f"top-p {setting.top_p:g}")
    if setting.rule != TOKEN_RULE:
        parts.append(f"verified by {setting.rule}")
    return ", ".join([*parts, setting.drafter])
