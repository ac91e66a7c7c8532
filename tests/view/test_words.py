"""Sentences of the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdec.metrics import Baseline, Block, Totals
from specdec.records import TokenRecord, TokenStatus
from specdec.view import words
from specdec.view.facts import token_facts, visible
from tests.made_runs import tiny_events


@pytest.mark.parametrize("text", ["*a* _b_ `c`", "$x$ :red[y]", "[a](b) <i>", "# t\n- l", "a|b~c"])
def test_no_word_of_ours_is_read_as_markdown(text):
    escaped = words.plain(text)
    assert escaped.replace("\\", "") == text.replace("\\", "")
    for index, char in enumerate(escaped):
        if char in "*_`$[]<>#|~:":
            assert escaped[index - 1] == "\\"


def test_the_totals_are_one_sentence(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=20, k=4)
    summary = events[-1]
    said = words.totals(summary)
    assert f"{summary.num_accepted_draft_tokens} of {summary.num_draft_tokens} drafted" in said
    assert words.totals(Totals().summary()) == "Nothing has been written yet."


def test_the_baseline_says_when_and_on_how_much_it_was_measured():
    said = words.baseline_words(Baseline(16, 2.0, 1.0), link="emulated")
    assert said == ("Plain decoding: 8.0 tokens/s over the emulated link, measured on 16 tokens.")
    block = Block((0.1, 0.1, 0.2), (0.05, 0.05, 0.05))
    again = words.baseline_words(Baseline.of_blocks(block, block), link="measured")
    assert again.startswith("Plain decoding: 10.0 tokens/s over the measured link, a call 100.0 ms")
    assert "of which the link 50.0: the median of 6 calls, measured before and after" in again
    assert "before this run" in words.baseline_words(Baseline.of_blocks(block), link="")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a b ", "␣a b␣"),
        ("\n\n", "↵↵"),
        ("\0\x1b", "␀␛"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("\xa0x", "␣x"),
    ],
)
def test_white_space_is_made_visible(text, shown):
    assert visible(text) == shown


def test_the_facts_of_a_tested_token_show_the_test():
    record = TokenRecord(
        7,
        -1,
        4,
        TokenStatus.REJECTED,
        draft_prob=0.5,
        target_prob=0.1,
        draft_logprob=-0.7,
        target_logprob=-2.3,
        acceptance_prob=0.2,
        uniform=0.6,
        draft_entropy=1.0,
        target_entropy=2.0,
        drafted_by="suffix",
    )
    facts = token_facts(record, 3, {7: " the"}.__getitem__)
    by_the_whole_chain = replace(record, acceptance_prob=0.35)  # as a block, or a later sibling
    told = token_facts(by_the_whole_chain, 3, {7: " the"}.__getitem__)
    assert "u = 0.600 ≥ its chance to pass = 0.350" in told
    assert "drafted by suffix" in facts
    assert "“␣the” rejected, round 3, position 5" in facts
    assert "u = 0.600 ≥ min(1, p/q) = 0.200" in facts
    assert "draft q = 0.500 (log-probability -0.70) · target p = 0.100" in facts
    assert "entropy in nats: draft 1.00, target 2.00" in facts
