"""The page to share shows everything as text, loads nothing and runs nothing."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings

from specdec.saved.share_html import share_page
from tests.made_runs import runs, tiny_run

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\"'`&amp;"


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.answer: list[str] = []
        self._in_token = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self._in_token = "token" in (dict(attrs).get("class") or "").split()
        if self._in_token:
            self.answer.append("")

    def handle_endtag(self, tag):
        self._in_token = False

    def handle_data(self, data):
        self.text += data
        if self._in_token:
            self.answer[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=40)


def test_the_answer_is_there_token_by_token(run):
    page = Page(share_page(run))
    assert "".join(page.answer) == run.text
    assert len(page.answer) == sum(bool(piece) for piece in run.pieces)
    assert run.prompt in page.text


def test_figures_are_told_as_on_the_history_page(run):
    text = Page(share_page(run)).text
    assert f"with drafts by {run.draft.name}" in text
    first = run.summary.per_position_acceptance[0]
    assert f"{100 * first:.1f} %" in text
    assert f"{100 * run.summary.draft_acceptance_rate:.1f} %" in text
    assert "1/s" not in text


def hostile(run):
    config = replace(run.config, target=HOSTILE, draft=HOSTILE)
    return replace(
        run,
        config=config,
        prompt=HOSTILE,
        title=HOSTILE,
        note=HOSTILE,
        tags=(HOSTILE,),
        exactness=HOSTILE,
        backend=HOSTILE,
        environment={HOSTILE: HOSTILE},
        target=replace(run.target, name=HOSTILE),
        draft=replace(run.draft, name=HOSTILE),
        pieces=tuple(HOSTILE for _ in run.pieces),
        token_texts=dict.fromkeys(run.token_texts, HOSTILE),
        summary=replace(run.summary, error=HOSTILE),
    )


def test_whatever_a_run_says_stays_text(run):
    harmless, page = Page(share_page(run)), Page(share_page(hostile(run)))
    assert page.tags <= harmless.tags
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.answer == [HOSTILE] * len(run.pieces)
    assert HOSTILE in page.text


def loading(html):
    """Return the attributes and words by which a page would load something."""
    attributes = {name for name, _ in Page(html).attributes}
    words = {word for word in ("url(", "@import") if word in html}
    return words | (attributes & {"src", "href", "srcset", "action", "data", "poster"})


def test_nothing_is_loaded(run):
    page = Page(share_page(run))
    assert loading("<link href=a><img srcset=b><style>@import url(c)</style>") == {
        *("href", "srcset", "url(", "@import")
    }
    assert loading(share_page(run)) == set()
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_an_emulated_link_is_named(run):
    assert "emulated" not in Page(share_page(run)).text.replace("link is emulated", "")
    assert "was emulated" in Page(share_page(replace(run, link_is_emulated=True))).text


def test_totals_alone_make_a_page_without_rounds(run):
    bare = replace(run, config=None, rounds=(), pieces=(run.text,), token_texts={})
    page = Page(share_page(bare))
    assert run.text in page.text
    assert "details" not in page.tags


@settings(max_examples=20)
@given(runs())
def test_every_run_has_a_page(run):
    assert Page(share_page(run)).tags >= {"html", "h1", "table"}
