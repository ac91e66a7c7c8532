"""What agraph is given: no markup in titles, nothing that makes it draw anew without need."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from specdec.records import RoundResult, TokenRecord, TokenStatus
from specdec.view.chips import GUTTER_UNITS, PADDING_UNITS
from specdec.view.graph import (
    INKS,
    MIN_CONTRAST,
    contrast,
    graph_config,
    graph_data,
    picture_height_px,
)
from specdec.view.palette import LOOKS
from specdec.view.text import PICTURE_PX
from specdec.view.tree import Picture, lead, node_opacity, wrapped_picture
from specdec.view.window import live_picture
from tests.made_runs import tiny_events

PENDING, DISCARDED = TokenStatus.PENDING, TokenStatus.DISCARDED
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def rounds(tmp_path):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=30)
    return [event for event in events if isinstance(event, RoundResult)]


def test_no_title_holds_a_tag(rounds):
    picture = live_picture(rounds, None, lambda token_id: HOSTILE)
    data = json.loads(graph_data(picture, INKS["dark"]))
    titles = [node["title"] for node in data["nodes"] if "title" in node]
    assert any("onerror" in title for title in titles)
    assert not any("<i" in title for title in titles)


def test_the_clickable_tree_brings_its_tooltips_in_where_no_tab_is_opened_at_them(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    data = json.loads(graph_data(picture, INKS["light"], clickable=True))
    groups = json.loads(graph_config(picture, 300, clickable=True))["groups"]
    nodes = [node for node in data["nodes"] if node["shape"] == "box"]
    assert not any("title" in node for node in nodes)
    assert all(node["div"] == {"innerHTML": ""} for node in nodes)
    assert {node["group"] for node in nodes} == groups.keys()
    assert any("accepted" in group["title"] for group in groups.values())


def test_the_options_of_the_live_tree_never_change(rounds):
    options = {
        graph_config(live_picture(rounds[:count], None, str), 300) for count in range(len(rounds))
    }
    assert len(options) == 1


def test_a_node_that_is_updated_loses_the_dashes_it_had_while_pending(rounds):
    vis = json.loads(graph_data(wrapped_picture(rounds, str, range(len(rounds))), INKS["dark"]))[
        "nodes"
    ]
    dashes = {
        node["shapeProperties"]["borderDashes"] is not False
        for node in vis
        if node["shape"] == "box"
    }
    assert dashes == {True, False}  # said of each: what vis-network is not told, it keeps


def test_edges_join_what_is_drawn_and_rejections_are_dashed(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    data = json.loads(graph_data(picture, INKS["light"]))
    drawn = {node["id"] for node in data["nodes"]}
    assert {end for edge in data["edges"] for end in (edge["from"], edge["to"])} <= drawn
    assert len({edge["id"] for edge in data["edges"]}) == len(data["edges"])
    status = {node.id: node.status for node in picture.nodes}
    for edge in data["edges"]:
        if edge["to"] in status:
            assert (edge["dashes"] == [8, 6]) is (status[edge["to"]] == "rejected")


def test_from_every_token_a_way_leads_back_to_the_beginning_of_its_row(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    data = json.loads(graph_data(picture, INKS["light"]))
    came_from = {edge["to"]: edge["from"] for edge in data["edges"]}
    for node in picture.nodes:
        place = node.id
        while place in came_from:
            place = came_from[place]
        assert place == f"row{node.row}"


def test_every_parent_has_a_line_of_its_own_to_its_children(tmp_path):
    places, parents = (0, 0, 1, 1, 1, 1), (-1, -1, 0, 0, 1, 1)
    nodes = [lead("root", "prompt", 0)]
    for index, (place, parent) in enumerate(zip(places, parents, strict=True)):
        above = nodes[parent + 1].id
        node = replace(lead(f"n{index}", "word", place + 1), parent=above, status=DISCARDED)
        nodes.append(replace(node, branch=index, lane=index))
    picture = Picture(tuple(nodes), ((0.0, 70.0, 140.0, 210.0),), (7,))
    data = json.loads(graph_data(picture, INKS["light"]))
    turns = {node["id"]: node["x"] for node in data["nodes"] if "|" in node["id"]}
    of_the_first = {turns["n2|"], turns["n3|"]}
    of_the_second = {turns["n4|"], turns["n5|"]}
    assert len(of_the_first) == len(of_the_second) == 1
    assert of_the_first != of_the_second
    assert all(140 - GUTTER_UNITS < x < 140 for x in of_the_first | of_the_second)


def boxes(data):
    """Return left, top, right and bottom of each chip."""
    return {
        node["id"]: (
            node["x"] - node["widthConstraint"]["minimum"] / 2 - PADDING_UNITS,
            node["y"] - node["heightConstraint"]["minimum"] / 2,
            node["x"] + node["widthConstraint"]["minimum"] / 2 + PADDING_UNITS,
            node["y"] + node["heightConstraint"]["minimum"] / 2,
        )
        for node in data["nodes"]
        if node["shape"] == "box"
    }


@pytest.mark.parametrize("word", ["a", " internationally", " 国際的な言葉"])
def test_no_two_chips_touch_and_no_edge_runs_through_one(rounds, word):
    picture = wrapped_picture(rounds, lambda _: word, range(len(rounds)))
    data = json.loads(graph_data(picture, INKS["light"]))
    found = list(boxes(data).values())
    for index, (left, top, right, bottom) in enumerate(found):
        for other in found[index + 1 :]:
            apart = left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
            assert apart
    places = {node["id"]: (node["x"], node["y"]) for node in data["nodes"]}
    for edge in data["edges"]:
        (x0, y0), (x1, y1) = places[edge["from"]], places[edge["to"]]
        assert x0 == x1 or y0 == y1  # along a lane, or in a gutter
        if x0 == x1:
            low, high = sorted((y0, y1))
            assert not any(
                left < x0 < right and top < high and bottom > low
                for left, top, right, bottom in found
            )


@pytest.mark.parametrize("theme", INKS)
@pytest.mark.parametrize("status", [s for s in LOOKS if s not in (PENDING, DISCARDED)])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.6, 1.0])
def test_the_text_of_a_chip_can_be_read_on_every_paper(theme, status, acceptance):
    record = TokenRecord(7, -1, 0, status, acceptance_prob=acceptance)
    node = replace(lead("a", "word", 0), status=status, opacity=node_opacity(record))
    picture = Picture((node,), ((0.0, 90.0),), (1,))
    vis = json.loads(graph_data(picture, INKS[theme]))["nodes"][0]
    assert contrast(vis["font"]["color"], vis["color"]["background"]) >= MIN_CONTRAST
    if status is TokenStatus.REJECTED:
        assert vis["color"]["background"] == LOOKS[status].color  # a wrong guess is never faint


def test_height_and_strength_can_be_switched_off(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)))

    def looks(**switches):
        nodes = json.loads(graph_data(picture, INKS["light"], **switches))["nodes"]
        chips = [node for node in nodes if node["shape"] == "box"]
        heights = {node["heightConstraint"]["minimum"] for node in chips}
        return heights, {node["color"]["background"] for node in chips}

    heights, fills = looks()
    assert len(heights) > 1
    assert len(looks(by_entropy=False)[0]) == 1
    assert len(fills) > len(looks(by_acceptance=False)[1])


def test_a_taller_picture_gets_more_room(rounds):
    one = wrapped_picture(rounds, str, range(2))
    all_rows = wrapped_picture(rounds, str, range(len(rounds)))
    assert picture_height_px(all_rows) > picture_height_px(one) > 0


@pytest.mark.parametrize("k", [1, 3, 8, 16])
def test_text_is_large_enough_whatever_is_drafted(tmp_path, k):
    _, events = tiny_events(tmp_path, seed=1, num_tokens=40, k=k)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    for picture, height_px in (
        (live_picture(rounds, None, str), 220),
        (wrapped_picture(rounds, str, range(len(rounds))), None),
    ):
        data = json.loads(graph_data(picture, INKS["light"], height_px=height_px))
        corner = data["nodes"][-1]
        width_px = PICTURE_PX if height_px else 1.1 * picture.width
        high = height_px or picture_height_px(picture, round(width_px))
        scale = min(width_px / (1.1 * corner["x"]), high / (1.1 * corner["y"]))
        sizes = {node["font"]["size"] for node in data["nodes"] if node["shape"] == "box"}
        assert min(sizes) * scale >= 15.5
