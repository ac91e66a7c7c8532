"""Shapes are read as they are written, and the best one is the best of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, strategies

from specdec.drafters.shapes import (
    MAX_CHILDREN,
    MAX_DEPTH,
    Shape,
    best_shape,
    children_of,
    parse_shape,
    write_shape,
)
from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES


@strategies.composite
def shapes(draw: strategies.DrawFn, max_children: int = MAX_CHILDREN) -> Shape:
    """Any shape that can be written."""
    parents: list[int] = []
    level = [-1]
    for _ in range(draw(strategies.integers(1, MAX_DEPTH))):
        first = len(parents)
        for node in level:
            room = min(max_children, MAX_NODES - len(parents))
            parents += [node] * draw(strategies.integers(0, room))
        level = list(range(first, len(parents)))
    return tuple(parents) or (-1,)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1", (-1,)),
        ("1-1-1", (-1, 0, 1)),
        ("3-2-1", (-1, -1, -1, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8)),
        ("3-2,0,1-0,1,3", (-1, -1, -1, 0, 0, 2, 4, 5, 5, 5)),
    ],
)
def test_a_shape_gives_each_node_its_children_level_by_level(text: str, shape: Shape) -> None:
    assert parse_shape(text) == shape


@given(shapes())
def test_what_is_written_is_read_again(shape: Shape) -> None:
    assert parse_shape(write_shape(shape)) == shape


def test_equal_numbers_are_written_once_and_no_node_not_at_all() -> None:
    assert write_shape(parse_shape("2-3,3-1")) == "2-3-1"
    assert write_shape(()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "0",
        "9",
        "3-",
        "2-0",
        "2-1,1,1",
        "1,1",
        "2-0,0",
        "a",
        "3 2",
        "-1",
        "-".join("1" * 17),
    ],
)
def test_what_is_no_shape_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^A tree is auto, .* 1 to 8, up to 16 deep.*\.$"):
        parse_shape(text)


@pytest.mark.parametrize("text", ["8-8", "2-2-2-2-2-2", "-".join("8" * 16)])
def test_too_many_tokens_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^The tree .* is too large: .* at most 64 tokens\.$"):
        parse_shape(text)


def test_the_largest_shapes_are_taken() -> None:
    assert len(parse_shape("8-7")) == MAX_NODES
    assert len(parse_shape("-".join("1" * 16))) == MAX_DEPTH


@given(shapes())
def test_the_children_of_a_node_are_those_that_name_it(shape: Shape) -> None:
    for node, children in enumerate(children_of(shape), start=-1):
        assert list(children) == [child for child, parent in enumerate(shape) if parent == node]


# -- the best shape -------------------------------------------------------------------------------


def every_shape(num_nodes: int) -> Iterator[Shape]:
    """Yield every shape of up to `num_nodes` nodes: all sequences of parents that never fall."""

    def longer(shape: Shape) -> Iterator[Shape]:
        yield shape
        if len(shape) < num_nodes:
            for parent in range(shape[-1] if shape else -1, len(shape)):
                yield from longer((*shape, parent))

    return longer(())


def rate_of(
    shape: Shape, acceptance: Sequence[float], draft_cost: float, costs: Sequence[float]
) -> float:
    """Return the tokens per second of `shape`, node by node; `costs[n]` is that of n rows."""
    chances, depths = {-1: 1.0}, {-1: 0}
    for node, parent in enumerate(shape):
        rank = shape[:node].count(parent)
        chances[node] = chances[parent] * (acceptance[rank] if rank < len(acceptance) else 0.0)
        depths[node] = depths[parent] + 1
    return sum(chances.values()) / (max(depths.values()) * draft_cost + costs[len(chances)])


@pytest.mark.parametrize("seed", range(30))
def test_the_best_shape_is_the_best_of_every_shape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acceptance = (rng.dirichlet([4.0, 2.0, 1.0, 1.0])[: rng.integers(1, 4)]).tolist()
    draft_cost = float(rng.choice([0.0, 0.02, 0.1]))
    costs = [0.0, 1.0, *(1.0 + np.cumsum(rng.exponential(0.08, size=8)))]
    max_depth = int(rng.integers(1, 5))

    best = best_shape(acceptance, 6, max_depth, draft_cost, costs.__getitem__)
    rate = rate_of(best, acceptance, draft_cost, costs)
    rates = [
        rate_of(shape, acceptance, draft_cost, costs)
        for shape in every_shape(6)
        if len(write_shape(shape).split("-")) <= max_depth
    ]
    assert len(best) <= 6
    assert len(write_shape(best).split("-")) <= max_depth
    assert rate == pytest.approx(max(rates), rel=1e-12)


def test_every_shape_of_the_search_is_there_once() -> None:
    found = list(every_shape(6))
    assert len(set(found)) == len(found) == 1 + 1 + 2 + 5 + 14 + 42 + 132  # Catalan numbers


def test_where_rows_are_dear_or_nothing_is_accepted_plain_decoding_is_best() -> None:
    assert best_shape([0.9], 8, 4, 0.0, lambda rows: float(rows)) == ()
    assert best_shape([0.0, 0.0], 8, 4, 0.1, lambda rows: 1.0) == ()
    assert best_shape([0.9], 0, 4, 0.0, lambda rows: 1.0) == ()
    assert best_shape([0.9], 8, 0, 0.0, lambda rows: 1.0) == ()


def test_where_rows_are_free_a_sure_draft_is_a_chain_and_an_unsure_one_is_wide() -> None:
    assert write_shape(best_shape([0.99, 0.01], 6, 6, 0.0, lambda rows: 1.0)) == "1-1-1-1-1-1"
    assert write_shape(best_shape([0.3, 0.25, 0.2], 3, 6, 0.5, lambda rows: 1.0)) == "3"


def test_a_shape_never_outgrows_a_draft() -> None:
    acceptance = [0.3, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.02]
    shape = best_shape(acceptance, 1000, 1000, 0.0, lambda rows: 1.0)
    assert len(shape) == MAX_NODES
    assert parse_shape(write_shape(shape)) == shape
