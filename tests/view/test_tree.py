"""The tree: everybody in a place of their own, joined to where they came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.records import Drafted, RoundResult, TokenStatus
from specdec.view.tree import (
    MIN_WINDOW_COLUMNS,
    ROOT,
    live_picture,
    node_size,
    short_label,
    slices,
    wrapped_picture,
)
from tests.made_runs import round_results, tiny_events

MAX_LIVE_NODES = 45


def rounds_of(folder, *, seed=0, num_tokens=80, k=4):
    _, events = tiny_events(folder, seed=seed, num_tokens=num_tokens, k=k)
    return [event for event in events if isinstance(event, RoundResult)]


@st.composite
def any_rounds(draw):
    rounds, position = [], 0
    for number in range(draw(st.integers(1, 5))):
        drawn = draw(round_results(number, position))
        path = (*drawn.accepted, *([drawn.final] if drawn.final else []))
        rounds.append(replace(drawn, emitted=tuple(record.token_id for record in path)))
        position += len(path)
    return rounds


def check(picture):
    places = [(node.row, node.column, node.lane) for node in picture.nodes]
    ids = {node.id for node in picture.nodes}
    assert len(set(places)) == len(places)
    assert len(ids) == len(places)
    return ids


@settings(max_examples=25)
@given(any_rounds())
def test_the_whole_tree_shows_every_token_once_and_joined_to_its_parent(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)), columns=6)
    ids = check(picture)
    expected = {f"r{r.round}c{i}" for r in rounds for i in range(len(r.candidates))}
    expected |= {f"r{r.round}f" for r in rounds if r.final is not None}
    assert ids - {node.id for node in picture.nodes if node.status is None} == expected
    by_id = {node.id: node for node in picture.nodes}
    for node in picture.nodes:
        if node.parent is None:
            assert node.status is None
        else:
            assert by_id[node.parent].row == node.row


def test_the_output_runs_along_lane_0_and_nothing_else_does(tmp_path):
    rounds = rounds_of(tmp_path)
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    failed = (TokenStatus.REJECTED, TokenStatus.DISCARDED)
    for node in picture.nodes:
        assert (node.lane > 0) is (node.status in failed)
    assert len(picture.lanes_per_row) == picture.nodes[-1].row + 1


@pytest.mark.parametrize("k", [1, 4, 8])
def test_the_live_window_stays_small_and_holds_the_newest_tokens(tmp_path, k):
    rounds = rounds_of(tmp_path, num_tokens=120, k=k)
    for count in range(1, len(rounds) + 1):
        picture = live_picture(rounds[:count], None, str, k)
        ids = check(picture)
        assert len(picture.nodes) <= MAX_LIVE_NODES
        assert picture.num_columns == max(MIN_WINDOW_COLUMNS, k + 6)
        last = rounds[count - 1]
        assert f"r{last.round}f" in ids
        assert {f"r{last.round}c{i}" for i in range(last.num_drafted)} <= ids


def test_nothing_moves_between_two_rounds_unless_the_page_turns(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=120)
    pages = set()
    before = {}
    for count in range(1, len(rounds) + 1):
        picture = live_picture(rounds[:count], None, str, 4)
        newest = f"r{count - 1}"
        shifts = {
            before[node.id][0] - node.column
            for node in picture.nodes
            if node.id in before and not node.id.startswith(newest)
        }
        assert len(shifts) <= 1
        pages |= shifts
        before = {node.id: (node.column, node.lane) for node in picture.nodes}
    assert 0 in pages
    assert len(pages) > 1


def test_an_answer_is_shown_on_the_page_of_its_draft(tmp_path):
    _, events = tiny_events(tmp_path, seed=2, num_tokens=60)
    rounds = []
    columns = {}
    for event in events:
        if isinstance(event, Drafted):
            columns = {n.id: n.column for n in live_picture(rounds, event, str, 3).nodes}
        elif isinstance(event, RoundResult):
            rounds.append(event)
            after = {n.id: n.column for n in live_picture(rounds, None, str, 3).nodes}
            assert all(after[node] == columns[node] for node in columns.keys() & after.keys())


def test_old_branches_are_cut_to_a_count(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=60)
    labels = [n.label for n in live_picture(rounds, None, str, 4).nodes if n.lane]
    assert any("+" in label for label in labels)


def test_an_empty_run_is_the_prompt_alone():
    assert [node.id for node in live_picture([], None, str, 4).nodes] == [ROOT]
    assert slices([]) == []


@settings(max_examples=25)
@given(any_rounds(), st.integers(1, 9))
def test_slices_cover_every_round_once(rounds, max_nodes):
    covered = [number for stretch in slices(rounds, max_nodes) for number in stretch]
    nodes = [len(r.candidates) + (r.final is not None) for r in rounds]
    assert [n for n in covered if nodes[n]] == [n for n in range(len(rounds)) if nodes[n]]
    assert covered == sorted(set(covered))
    for stretch in slices(rounds, max_nodes):
        sizes = [nodes[n] for n in stretch if nodes[n]]
        assert len(sizes) == 1 or sum(sizes) <= max_nodes


@pytest.mark.parametrize(
    ("entropy", "size"), [(0.0, 8.0), (2.0, 16.0), (4.0, 24.0), (9.0, 24.0), (None, 16.0)]
)
def test_size_is_entropy_from_0_to_4_nats(entropy, size):
    assert node_size(entropy) == size


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" the", "the"),
        (" ", "␣"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("", "∅"),
        ("abcdefghij", "abcdefg…"),
    ],
)
def test_labels_are_short_and_show_white_space_that_stands_alone(text, label):
    assert short_label(text) == label
