"""What a model wrote is shown as text, all of it and nothing but it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.records import Drafted, TokenRecord, TokenStatus
from specdec.view.text import CHUNK_TOKENS, SHOWN_CONTROLS, TokenText

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><b>',
    "' onmouseover='x",
    "</label>",
    "**bold** $x$ :red[y]",
    "&lt;",
    "a\n\n b\t",
    "🧑‍🚀",
    "שלום",
]


class Spans(HTMLParser):
    """Reads HTML back: the text between the tags, every tag, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def record(token_id, status=TokenStatus.ACCEPTED, position=0):
    return TokenRecord(token_id, -1, position, status, target_logprob=-1.0)


def html_of(text):
    return "".join(text.chunks) + text.tail()


@given(st.lists(st.text(min_size=1, max_size=8) | st.sampled_from(HOSTILE), max_size=30))
def test_the_text_of_the_html_is_the_text_of_the_model(pieces):
    text = TokenText(lambda token_id: pieces[token_id])
    for token_id, piece in enumerate(pieces):
        text.push([record(token_id)], [piece], 1)
    assert text.plain == "".join(pieces)
    spans = Spans(html_of(text))
    assert spans.text == text.plain.translate(SHOWN_CONTROLS)
    assert set(spans.tags) <= {"label", "input"}
    assert {name for name, _ in spans.attributes} <= {"class", "data-f", "data-n", "type", "name"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_attribute_holds_what_looks_like_a_tag(hostile):
    text = TokenText(lambda token_id: hostile)
    text.push([record(0)], [hostile], 1)
    facts = dict(Spans(html_of(text)).attributes)["data-f"]
    assert "<script" not in facts
    assert "</" not in facts


def test_finished_chunks_never_change():
    text = TokenText(str)
    seen: list[str] = []
    for token_id in range(3 * CHUNK_TOKENS + 5):
        text.push([record(token_id)], [f"{token_id} "], token_id + 1)
        assert text.chunks[: len(seen)] == seen
        seen = list(text.chunks)
        assert text.tail().count("<label") < CHUNK_TOKENS
    assert len(seen) == 3
    assert Spans(html_of(text)).text == text.plain


def test_a_character_of_three_tokens_is_one_span_that_knows_all_three():
    texts = {0: "\\xf0\\x9f", 1: "\\xa7", 2: "\\x91"}
    text = TokenText(texts.__getitem__)
    text.push([record(0), record(1), record(2)], ["", "", "🧑"], 4)
    spans = Spans(html_of(text))
    assert (spans.tags.count("label"), spans.text) == (1, "🧑")
    facts = dict(spans.attributes)["data-f"]
    assert facts.count("round 4") == 3


def test_a_control_token_is_a_mark_and_no_part_of_the_text():
    text = TokenText(lambda token_id: "<|im_end|>")
    text.push([record(0)], [""], 1)
    assert text.plain == ""
    assert ("class", "tk mark") in Spans(html_of(text)).attributes


def test_what_is_left_of_a_half_character_is_shown_at_the_end():
    text = TokenText(lambda token_id: "\\xf0")
    text.push([record(0)], [""], 1)
    text.end("\N{REPLACEMENT CHARACTER}")
    assert text.plain == Spans(html_of(text)).text == "\N{REPLACEMENT CHARACTER}"


def test_a_pending_draft_stands_after_the_text_until_it_is_answered():
    text = TokenText(lambda token_id: f"<{token_id}>")
    text.push([record(0)], ["a"], 1)
    places = {1: (-1, 1), 2: (0, 2), 3: (-1, 1)}
    draft = tuple(TokenRecord(i, *place, TokenStatus.PENDING) for i, place in places.items())
    html = text.tail(Drafted(1, draft, 0.0, 0.0))
    assert Spans(html).text == "a<1><2>"
    assert ("class", "tk pending") in Spans(html).attributes
    assert Spans(text.tail()).text == "a"
