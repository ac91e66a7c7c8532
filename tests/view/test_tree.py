"""The tree: everybody in a place of their own, joined to where they came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.records import Drafted, RoundResult, TokenRecord, TokenStatus
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from specdec.view.chips import FRAME_UNITS, chip_units, signed
from specdec.view.graph import frame_height
from specdec.view.tree import (
    OWN_LANES,
    ROOT,
    node_height,
    short_label,
    slices,
    wrapped_picture,
)
from specdec.view.window import live_picture
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
    picture = wrapped_picture(rounds, str, range(len(rounds)), width=200.0)
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


def lefts(picture):
    """Return where each node begins and ends, in the picture's own units."""
    [columns] = picture.columns
    starts = {node.id: columns[min(node.column, len(columns) - 1)] for node in picture.nodes}
    return {
        node.id: (starts[node.id], starts[node.id] + chip_units(signed(node.label, node.status)))
        for node in picture.nodes
    }


@settings(max_examples=150)
@given(
    st.one_of(drafts_and_answers(CHAINS), drafts_and_answers(st.one_of(CHAINS, trees()))),
    st.sampled_from([str, lambda token_id: " internationally", lambda token_id: " 国際的な言葉"]),
)
def test_every_token_of_the_newest_draft_is_in_the_frame_whatever_was_drafted_before(
    rounds, text_of
):
    for so_far, pending, newest in moments(rounds):
        picture = live_picture(so_far, pending, text_of)
        drawn = check(picture)
        ids = {f"r{newest.round}c{index}" for index in range(len(newest.candidates))}
        assert ids <= drawn
        [lanes] = picture.lanes_per_row
        for node, (left, right) in lefts(picture).items():
            assert left >= 0
            if node in ids:
                assert right <= FRAME_UNITS + 1
        assert all(0 <= node.lane < lanes for node in picture.nodes)
        by_id = {node.id: node for node in picture.nodes}
        hanging = [node for node in picture.nodes if node.branch is not None]
        assert all(node.parent in by_id for node in hanging if node.id not in ids)


@given(any_rounds())
def test_rounds_that_no_target_answers_but_a_file_may_hold_find_their_places_too(rounds):
    picture = live_picture(rounds, None, str)
    newest = {f"r{len(rounds) - 1}c{index}" for index in range(rounds[-1].num_drafted)}
    assert newest <= check(picture)
    assert max(node.lane for node in picture.nodes) < picture.lanes_per_row[0]


@settings(max_examples=150)
@given(drafts_and_answers(st.one_of(CHAINS, trees())))
def test_the_frame_has_one_width_and_is_never_lower_than_before(rounds):
    height = frame_height(live_picture([], None, str), 220)
    for so_far, pending, _ in moments(rounds):
        picture = live_picture(so_far, pending, str)
        assert picture.width == FRAME_UNITS
        if picture.has_two_lines:
            continue
        assert frame_height(picture, 220) >= height
        height = frame_height(picture, 220)


@settings(max_examples=100)
@given(drafts_and_answers(CHAINS))
def test_chains_of_any_length_have_one_frame(rounds):
    heights = {
        frame_height(live_picture(so_far, pending, lambda _: " token"), 220)
        for so_far, pending, _ in moments(rounds)
    }
    assert len(heights) <= 1


@settings(max_examples=100)
@given(drafts_and_answers(CHAINS))
def test_nothing_moves_to_the_side_while_a_round_goes_on(rounds):
    before = {}
    for so_far, pending, newest in moments(rounds):
        picture = live_picture(so_far, pending, str)
        here = {node: left for node, (left, _) in lefts(picture).items()}
        if pending is None and newest.candidates:
            assert {node: here[node] for node in before} == before
        before = here


def test_a_k_that_is_raised_in_mid_run_gets_room_for_all_of_its_draft():
    rounds, position = [], 0
    for number in range(6):
        rounds.append(answered(pending_of(number, position, range(-1, 2)), position, 1))
        position += 3
    assert not live_picture(rounds, None, lambda _: " token").has_two_lines
    pending = pending_of(6, position, range(-1, 15))
    picture = live_picture(rounds, pending, lambda _: " token")
    assert sum(node.status is TokenStatus.PENDING for node in picture.nodes) == 16
    assert picture.has_two_lines


def test_a_draft_with_many_branches_gets_lanes_for_all_of_them():
    wide = pending_of(0, 0, [-1] * 7)
    assert live_picture([], wide, str).lanes_per_row == (8,)  # none may be the right one
    assert sum(node.column == 1 for node in live_picture([], wide, str).nodes) == 7
    comb = pending_of(0, 0, [-1, -1, 0, 0, 2, 2, 4, 4])
    assert live_picture([], comb, str).lanes_per_row == (OWN_LANES + 1,)


def test_what_hangs_side_by_side_in_a_lane_is_of_one_round_while_there_are_lanes(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=60)
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    rounds_of_lane = {}
    for node in picture.nodes:
        if 0 < node.lane <= OWN_LANES and picture.lanes_per_row[node.row] <= OWN_LANES:
            rounds_of_lane.setdefault((node.row, node.lane), set()).add(node.round)
    assert len(rounds_of_lane) > 4
    assert all(len(found) == 1 for found in rounds_of_lane.values())


def test_a_bracket_stands_over_what_each_round_wrote(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=40)
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    assert [one.round for one in picture.brackets] == [r.round for r in rounds]
    for one in picture.brackets:
        tokens = [
            node.column for node in picture.nodes if node.round == one.round and node.lane == 0
        ]
        assert (one.first, one.last) == (min(tokens), max(tokens))


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


def test_from_round_to_round_the_window_goes_on_by_no_more_than_was_written(tmp_path):
    rounds = rounds_of(tmp_path, num_tokens=120)
    steps, first = [], -1
    for count in range(1, len(rounds) + 1):
        picture = live_picture(rounds[:count], None, str)
        final = next(node for node in picture.nodes if node.id == f"r{count - 1}f")
        newest = rounds[count - 1].position + len(rounds[count - 1].emitted) - 1 - final.column
        steps.append(newest - first)
        first = newest
    assert min(steps) >= -2  # a draft of shorter words may let one more be seen
    assert max(steps) <= 2 * (1 + max(r.num_drafted for r in rounds))
    assert sum(steps) > 60


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
    ("entropy", "height"), [(0.0, 0.0), (2.0, 0.5), (4.0, 1.0), (9.0, 1.0), (None, 0.5)]
)
def test_height_is_entropy_from_0_to_4_nats(entropy, height):
    assert node_height(entropy) == height


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" the", "the"),
        (" ", "␣"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("", "∅"),
        ("abcdefghijklmnop", "abcdefghijk…"),
    ],
)
def test_labels_are_short_and_show_white_space_that_stands_alone(text, label):
    assert short_label(text) == label
