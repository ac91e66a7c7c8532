"""The figures of a run at one glance, and the sentence that is left of it in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.records import FinishReason
from specdec.view.figures import figures, figures_html, verdict
from tests.made_runs import tiny_run

OWN, ALONE = "The text follows the target’s own distribution", "The text is what the target alone"


@pytest.mark.parametrize(
    ("temperature", "exactness", "said"),
    [
        (0.8, "exact", f"{OWN}."),
        (0.0, "exact", f"{ALONE} would write."),
        (0.8, "exact: verified one row at a time", f"{OWN}."),
        (
            0.8,
            "exact up to rounding of this backend: near ties",
            f"{OWN} up to rounding of this backend.",
        ),
        (
            0.0,
            "exact up to rounding of this backend: near ties",
            f"{ALONE} would write up to rounding of this backend.",
        ),
        (0.8, "exact for top-k = 20: it tells no more", f"{OWN} for top-k = 20."),
        (0.0, "exact for top-k = 20: it tells no more", f"{ALONE} would write."),
        (
            0.8,
            "approximate: the server repeats itself to within 0.3 nats",
            "The text follows the target as far as it tells: approximate: the server repeats "
            "itself to within 0.3 nats.",
        ),
    ],
)
def test_the_verdict_claims_no_more_than_the_target_guarantees(
    tmp_path, temperature, exactness, said
):
    run = tiny_run(tmp_path)
    rounds = tuple(replace(one, temperature=temperature) for one in run.rounds)
    assert verdict(replace(run, rounds=rounds, exactness=exactness), "").endswith(said)


def test_a_run_that_failed_has_no_verdict(tmp_path):
    run = tiny_run(tmp_path)
    failed = replace(run.summary, finish_reason=FinishReason.ERROR, error="The server is gone.")
    assert verdict(replace(run, summary=failed), "") == ""


@pytest.mark.parametrize(("possible", "pieces"), [(1, 1), (4, 4), (17, 17)])
def test_tokens_per_call_fill_a_bar_with_a_piece_for_each_that_is_possible(
    tmp_path, possible, pieces
):
    summary = tiny_run(tmp_path).summary
    strip = figures(summary, None, max_tokens_per_call=possible, link="")
    [bar] = [one.segments for one in strip if one.segments]
    assert len(bar) == pieces
    assert sum(bar) == pytest.approx(min(possible, summary.tokens_per_target_call))
    assert figures_html(strip).count("<i ") == pieces
