"""What agraph is given: no markup in titles, nothing that makes it draw anew without need."""

from __future__ import annotations

import json

import pytest

from specdec.records import RoundResult
from specdec.view.graph import (
    COLUMN_UNITS,
    INKS,
    LABEL_PX,
    graph_config,
    graph_data,
    picture_height_px,
)
from specdec.view.text import PICTURE_PX
from specdec.view.tree import Picture, lead, wrapped_picture
from specdec.view.window import live_picture
from tests.made_runs import tiny_events

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
    nodes = [node for node in data["nodes"] if not node["id"].startswith("corner")]
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
        if not node["id"].startswith("corner")
    }
    assert dashes == {True, False}  # said of each: what vis-network is not told, it keeps


def test_edges_join_what_is_drawn_and_rejections_are_dashed(rounds):
    picture = wrapped_picture(rounds, str, range(len(rounds)))
    data = json.loads(graph_data(picture, INKS["light"]))
    drawn = {node["id"] for node in data["nodes"]}
    assert {end for edge in data["edges"] for end in (edge["from"], edge["to"])} <= drawn
    status = {node.id: node.status for node in picture.nodes}
    for edge in data["edges"]:
        assert (edge["dashes"] == [8, 6]) is (status[edge["to"]] == "rejected")


def test_a_taller_picture_gets_more_room(rounds):
    one = wrapped_picture(rounds, str, range(2))
    all_rows = wrapped_picture(rounds, str, range(len(rounds)))
    assert picture_height_px(all_rows) > picture_height_px(one) > 0


@pytest.mark.parametrize("num_columns", [8, 10, 13, 14, 22, 28])
def test_labels_can_be_read_at_any_width_and_do_not_touch(num_columns):
    word = "internationally"
    nodes = (lead("a", word, 0), lead("b", word + "  +12", 1), lead("c", word, 2))
    data = json.loads(graph_data(Picture(nodes, num_columns, (4,)), INKS["light"]))
    one, beside, next_but_one, left, right = data["nodes"]
    height_px = picture_height_px(Picture(nodes, num_columns, (4,)))
    wide, high = right["x"] - left["x"], right["y"] - left["y"]
    scale = min(PICTURE_PX / (1.1 * wide), height_px / (1.1 * high))  # as vis-network fits it
    size = one["font"]["size"]
    assert size * scale >= LABEL_PX
    lower = beside["font"]["vadjust"] - one["font"]["vadjust"]
    assert lower in (0, size)
    assert next_but_one["font"]["vadjust"] == one["font"]["vadjust"]
    assert beside["label"].endswith("…  +12")
    assert len(one["label"]) >= 4
    assert len(one["label"]) * size / 2 <= COLUMN_UNITS * (2 if lower else 1)
