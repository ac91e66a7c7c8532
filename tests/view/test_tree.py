"""The tree: everybody in a place of their own, joined to where they came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.records import Drafted, RoundResult, TokenRecord, TokenStatus
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from specdec.view.tree import ROOT, node_size, short_label, slices, wrapped_picture
from specdec.view.window import MIN_WINDOW_COLUMNS, PAGE_MARGIN_COLUMNS, WINDOW_LANES, live_picture
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


CHAINS = st.integers(0, MAX_NUM_DRAFT_TOKENS).map(lambda k: tuple(range(-1, k - 1)))


@st.composite
def trees(draw, max_nodes=20):
    """Draw the parents of a tree that is at most as deep as a draft may be."""
    parents, depths = [], []
    for node, back in enumerate(draw(st.lists(st.integers(0, max_nodes), max_size=max_nodes))):
        parent = node - 1 - back % (node + 1)
        if parent >= 0 and depths[parent] == MAX_NUM_DRAFT_TOKENS:
            parent = parents[parent]
        parents.append(parent)
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return tuple(parents)


def pending_of(number, position, parents):
    records = []
    for parent in parents:
        column = position if parent < 0 else records[parent].position + 1
        records.append(TokenRecord(7, parent, column, TokenStatus.PENDING))
    return Drafted(number, tuple(records), 0.0, 0.0)


def answered(draft, position, last=-1, *, has_final=True):
    """Return the round that accepted `draft` down to the node `last`."""
    path = set()
    node = last
    while node >= 0:
        path.add(node)
        node = draft.candidates[node].parent
    failed = TokenStatus.REJECTED
    candidates = tuple(
        replace(record, status=TokenStatus.ACCEPTED if node in path else failed)
        for node, record in enumerate(draft.candidates)
    )
    final = TokenRecord(7, last, position + len(path), TokenStatus.RESAMPLED) if has_final else None
    return RoundResult(
        round=draft.round,
        position=position,
        candidates=candidates,
        final=final,
        emitted=(7,) * (len(path) + has_final),
        num_draft_tokens=len(candidates),
        temperature=1.0,
        drafter="made",
        started_s=0.0,
        draft_s=0.0,
        verify_s=0.0,
        link_s=0.0,
        retry_s=0.0,
        sample_s=0.0,
        wall_s=0.0,
    )


@st.composite
def drafts_and_answers(draw, shapes):
    """Draw the rounds of a run in which each draft is of another size or shape.

    Some targets cannot score the position behind a whole accepted draft: no final token then.
    """
    rounds, position = [], 0
    for number in range(draw(st.integers(1, 12))):
        shape = draw(shapes)
        pending = pending_of(number, position, shape)
        last = draw(st.integers(-1, len(shape) - 1))
        is_whole = last >= 0 and last not in shape
        has_final = not is_whole or draw(st.booleans())
        result = answered(pending, position, last, has_final=has_final)
        rounds.append((pending, result))
        position += len(result.emitted)
    return rounds


def moments(rounds):
    """Give each moment of a run: the rounds so far, the draft that waits, and the newest draft."""
    so_far = []
    for pending, result in rounds:
        if pending.candidates:
            yield list(so_far), pending, pending
        so_far.append(result)
        yield list(so_far), None, result


@settings(max_examples=150)
@given(st.one_of(drafts_and_answers(CHAINS), drafts_and_answers(st.one_of(CHAINS, trees()))))
def test_every_token_of_the_newest_draft_is_in_the_frame_whatever_was_drafted_before(rounds):
    for so_far, pending, newest in moments(rounds):
        picture = live_picture(so_far, pending, str)
        drawn = check(picture)
        ids = {f"r{newest.round}c{index}" for index in range(len(newest.candidates))}
        assert ids <= drawn
        [lanes] = picture.lanes_per_row
        for node in picture.nodes:
            assert (0 if node.id in ids else -1) <= node.column < picture.num_columns
            assert 0 <= node.lane < lanes
            assert node.id in ids or node.lane <= WINDOW_LANES


@given(any_rounds())
def test_rounds_that_no_target_answers_but_a_file_may_hold_find_their_places_too(rounds):
    picture = live_picture(rounds, None, str)
    newest = {f"r{len(rounds) - 1}c{index}" for index in range(rounds[-1].num_drafted)}
    assert newest <= check(picture)
    assert max(node.lane for node in picture.nodes) < picture.lanes_per_row[0]


@settings(max_examples=150)
@given(drafts_and_answers(st.one_of(CHAINS, trees())))
def test_the_frame_is_as_wide_as_the_deepest_draft_so_far_asks_for_and_never_shrinks(rounds):
    deepest, lanes = 0, WINDOW_LANES + 1
    for so_far, pending, newest in moments(rounds):
        heads = [record.position for record in newest.candidates]
        deepest = max(deepest, max(heads, default=-1) - min(heads, default=0) + 1)
        picture = live_picture(so_far, pending, str)
        assert picture.num_columns == max(MIN_WINDOW_COLUMNS, deepest + PAGE_MARGIN_COLUMNS)
        assert picture.lanes_per_row[0] >= lanes
        [lanes] = picture.lanes_per_row


@settings(max_examples=100)
@given(drafts_and_answers(CHAINS))
def test_an_answer_is_shown_on_the_page_of_its_draft(rounds):
    before = None
    for so_far, pending, newest in moments(rounds):
        picture = live_picture(so_far, pending, str)
        columns = {node.id: node.column for node in picture.nodes}
        if pending is None and newest.candidates:
            assert {node: columns[node] for node in before if node in columns} == before
        before = {node: at for node, at in columns.items() if node.startswith(f"r{newest.round}c")}


def test_a_k_that_is_raised_in_mid_run_gets_room_for_all_of_its_draft():
    rounds, position = [], 0
    for number in range(6):
        rounds.append(answered(pending_of(number, position, range(-1, 2)), position, 1))
        position += 3
    assert live_picture(rounds, None, str).num_columns == MIN_WINDOW_COLUMNS
    pending = pending_of(6, position, range(-1, 15))
    picture = live_picture(rounds, pending, str)
    assert sum(node.status is TokenStatus.PENDING for node in picture.nodes) == 16
    assert picture.num_columns == 16 + PAGE_MARGIN_COLUMNS


def test_a_draft_with_many_branches_gets_lanes_for_all_of_them():
    wide = pending_of(0, 0, [-1] * 6)
    assert live_picture([], wide, str).lanes_per_row == (7,)  # none may be the right one
    assert sum(node.column == 0 for node in live_picture([], wide, str).nodes) == 6
    comb = pending_of(0, 0, [-1, -1, 0, 0, 2, 2, 4, 4])
    assert live_picture([], comb, str).lanes_per_row == (WINDOW_LANES + 1,)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_the_live_window_stays_small_and_holds_the_newest_tokens(tmp_path, k):
    rounds = rounds_of(tmp_path, num_tokens=120, k=k)
    for count in range(1, len(rounds) + 1):
        picture = live_picture(rounds[:count], None, str)
        ids = check(picture)
        assert len(picture.nodes) <= MAX_LIVE_NODES
        last = rounds[count - 1]
        assert f"r{last.round}f" in ids
        assert {f"r{last.round}c{i}" for i in range(last.num_drafted)} <= ids


def test_nothing_moves_between_two_rounds_unless_the_page_turns(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=120)
    pages = set()
    before = {}
    for count in range(1, len(rounds) + 1):
        picture = live_picture(rounds[:count], None, str)
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


def test_old_branches_are_cut_to_a_count(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=60)
    labels = [n.label for n in live_picture(rounds, None, str).nodes if n.lane]
    assert any("+" in label for label in labels)


def test_an_empty_run_is_the_prompt_alone():
    assert [node.id for node in live_picture([], None, str).nodes] == [ROOT]
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
