"""The shape of a draft tree: how it is written, and which one earns most for what it costs.

A shape says how many children each node gets before any token is known. It is written level by
level: "3-2-1" gives the context three children, each of those two and each of those one. Where the
nodes of a level differ, each says its own number: "3-2,1,0-1".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

from specdec.errors import SettingsError
from specdec.policies.base import MAX_NODES
from specdec.settings import MAX_NUM_DRAFT_TOKENS

Shape = tuple[int, ...]
"""The parent of each node, level by level and so never falling; −1 stands for the context."""

MAX_CHILDREN = 8
MAX_DEPTH = MAX_NUM_DRAFT_TOKENS
_LEVEL = f"[0-{MAX_CHILDREN}](,[0-{MAX_CHILDREN}])*"
_WRITTEN = re.compile(f"{_LEVEL}(-{_LEVEL}){{0,{MAX_DEPTH - 1}}}")


def parse_shape(text: str) -> Shape:
    """Read a shape as it is written, such as "3-2-1".

    Raises:
        SettingsError: it is no shape, or has more than `MAX_NODES` nodes.
    """
    if not _WRITTEN.fullmatch(text):
        raise _unreadable(text)
    parents: list[int] = []
    level = range(-1, 0)
    for written in text.split("-"):
        counts = [int(count) for count in written.split(",")]
        counts = counts * len(level) if len(counts) == 1 else counts
        if len(counts) != len(level) or not any(counts):
            raise _unreadable(text)
        first = len(parents)
        for node, count in zip(level, counts, strict=True):
            parents += [node] * count
        level = range(first, len(parents))
        if len(parents) > MAX_NODES:
            raise SettingsError(
                f"The tree {text} is too large: one draft holds at most {MAX_NODES} tokens."
            )
    return tuple(parents)


def _unreadable(text: str) -> SettingsError:
    return SettingsError(
        "A tree is auto, best, or how many children a token has at each depth: 1 to "
        f"{MAX_CHILDREN}, up to {MAX_DEPTH} deep, such as 3-2-1; {text!r} is none of these."
    )


def write_shape(shape: Shape) -> str:
    """Return what `parse_shape` reads as `shape`; nothing for the shape without nodes."""
    num_children = Counter(shape)
    levels: list[str] = []
    level = [-1]
    while any(num_children[node] for node in level):
        counts = [str(num_children[node]) for node in level]
        levels.append(counts[0] if len(set(counts)) == 1 else ",".join(counts))
        level = [node for node, parent in enumerate(shape) if parent in level]
    return "-".join(levels)


def children_of(shape: Shape) -> tuple[range, ...]:
    """Return the children of the context (entry 0) and of each node i (entry i + 1)."""
    num_children = Counter(shape)
    children: list[range] = []
    end = 0
    for node in range(-1, len(shape)):
        children.append(range(end, end + num_children[node]))
        end += num_children[node]
    return tuple(children)


def best_shape(
    acceptance_by_rank: Sequence[float],
    num_nodes: int,
    max_depth: int,
    draft_cost: float,
    verify_cost: Callable[[int], float],
) -> Shape:
    """Return the fixed shape that emits most tokens per second: Sequoia's dynamic programme.

    Chen et al. 2024 (Sequoia, https://arxiv.org/abs/2402.12374). A node at rank b of its siblings
    is reached with `acceptance_by_rank[b]` times the chance of its parent, the same everywhere,
    so the best tree below a node depends only on how many nodes and levels are left for it: the
    first child and what is below it take some of the nodes, its younger siblings take the rest.

    Args:
        acceptance_by_rank: the chance that a node's child of rank 0, 1, … is the first accepted.
        num_nodes: the most nodes the shape may have; `MAX_NODES` at the most.
        max_depth: the most levels; `MAX_DEPTH` at the most.
        draft_cost: seconds per level drafted.
        verify_cost: seconds in which the target scores so many rows, one more than there are
            nodes; it must not fall as rows are added.

    Returns:
        The parents of its nodes; none where plain decoding is best.
    """
    best_forest = _forests(acceptance_by_rank[:MAX_CHILDREN])
    best: _Forest = ()
    best_rate = 1.0 / verify_cost(1)
    for depth in range(1, min(max_depth, MAX_DEPTH) + 1):
        for count in range(1, min(num_nodes, MAX_NODES) + 1):
            accepted, forest = best_forest(depth, 0, count)
            rate = (1.0 + accepted) / (depth * draft_cost + verify_cost(1 + count))
            if rate > best_rate:
                best_rate, best = rate, forest
    return _flatten(best)


_Forest: TypeAlias = tuple["_Forest", ...]
"""The subtrees of some siblings, each as the forest of its children."""


def _forests(acceptance: Sequence[float]) -> Callable[[int, int, int], tuple[float, _Forest]]:
    """Return the programme's table, which is filled as it is asked."""

    @cache
    def best_forest(depth: int, rank: int, count: int) -> tuple[float, _Forest]:
        """Return the tokens expected of siblings from `rank` on, and the best such siblings.

        They and all below them are at most `count` nodes on at most `depth` levels.
        """
        best: tuple[float, _Forest] = (0.0, ())
        if depth == 0 or rank == len(acceptance):
            return best
        for below in range(count):  # how many nodes the first of them has below it
            inner, children = best_forest(depth - 1, 0, below)
            beside, others = best_forest(depth, rank + 1, count - 1 - below)
            accepted = acceptance[rank] * (1.0 + inner) + beside
            if accepted > best[0]:
                best = accepted, (children, *others)
        return best

    return best_forest


def _flatten(forest: _Forest) -> Shape:
    """Number the nodes level by level and return the parent of each."""
    parents: list[int] = []
    level = [(-1, forest)]
    while level:
        below: list[tuple[int, _Forest]] = []
        for node, children in level:
            for grandchildren in children:
                below.append((len(parents), grandchildren))
                parents.append(node)
        level = below
    return tuple(parents)
