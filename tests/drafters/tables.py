"""Drafters whose every law is written in a table, and all that a drafter may propose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun
from specdec.drafters.model import ModelDrafter
from specdec.policies.base import Budget
from specdec.sampling import Sampler, sample
from tests.test_acceptance import VOCAB, Probs, conditional, distribution
from tests.test_engine import DRAFTERS
from tests.toy import ScriptedRandom, ToyModel

PROMPT = [0]
SAMPLER = Sampler(1.0)
Entry = Probs | int | None
"""The law of the next token; the token itself where it is chosen; None where nothing is said."""
Table = Callable[[tuple[int, ...]], Entry]


class TableDrafter(Drafter, DrafterRun):
    """Drafts a chain by a table: what follows the prompt → the law of the next token."""

    def __init__(self, name: str, table: Table) -> None:
        self._name, self.table = name, table

    @property
    def name(self) -> str:
        return self._name

    def start(self, prompt):
        return self

    def propose(self, context, budget, sampler, rng, hidden=None):
        tokens, laws = list(context[len(PROMPT) :]), []
        for _ in range(budget.depth):
            entry = self.table(tuple(tokens))
            if entry is None:
                break
            if isinstance(entry, int):
                tokens.append(entry)
                laws.append(None)
                continue
            certain = np.count_nonzero(entry) == 1  # needs no draw, so that none is to be forced
            tokens.append(int(entry.argmax()) if certain else sample(entry, rng))
            laws.append(distribution(entry))
        return Draft.chain(tokens[len(context) - len(PROMPT) :], laws)


def drawn(seed: int) -> TableDrafter:
    """A drafter that draws from distributions with some zeros."""
    return TableDrafter(f"drawn-{seed}", conditional(seed))


def chosen(seed: int) -> TableDrafter:
    """A drafter that chooses, and sometimes has nothing to say."""

    def table(context: tuple[int, ...]) -> Entry:
        token = int(np.random.default_rng([seed, 3, *context]).integers(VOCAB + 1))
        return token if token < VOCAB else None

    return TableDrafter(f"chosen-{seed}", table)


def spiky(seed: int) -> TableDrafter:
    """A drafter that draws, in half of all places from a distribution of one token."""
    model = conditional(seed)

    def table(context: tuple[int, ...]) -> Entry:
        rng = np.random.default_rng([seed, 5, *context])
        return np.eye(VOCAB)[rng.integers(VOCAB)] if rng.random() < 0.5 else model(context)

    return TableDrafter(f"spiky-{seed}", table)


def halting(seed: int) -> TableDrafter:
    """A drafter that draws, in two thirds of all places, and elsewhere has nothing to say."""
    model = conditional(seed)

    def table(context: tuple[int, ...]) -> Entry:
        says = np.random.default_rng([seed, 9, *context]).random() < 2 / 3
        return model(context) if says or not context else None

    return TableDrafter(f"halting-{seed}", table)


MEMBERS: dict[str, Callable[[int], TableDrafter]] = {
    "drawn": drawn,
    "chosen": chosen,
    "spiky": spiky,
    "halting": halting,
}


def proposals(
    start: Callable[[], DrafterRun], budget: Budget, script: tuple[float, ...] = ()
) -> Iterator[tuple[Draft, float]]:
    """Yield all that a run as `start` makes it may propose first, with the exact probabilities.

    Each draw is forced onto each of its tokens through its uniform. The draws are those of the
    tokens in the draft, in its order, where the law leaves a choice.
    """
    draft = start().propose(PROMPT, budget, SAMPLER, ScriptedRandom(script))
    draws = [
        (law.probs, token_id)
        for law, token_id in zip(draft.distributions, draft.token_ids, strict=True)
        if law is not None and np.count_nonzero(law.probs) > 1
    ]
    if len(draws) > len(script):
        probs, _ = draws[len(script)]
        for token_id in np.flatnonzero(probs):
            middle = float(probs[:token_id].sum() + probs[token_id] / 2)
            yield from proposals(start, budget, (*script, middle))
        return
    yield draft, float(np.prod([probs[token_id] for probs, token_id in draws]))


COMBINATIONS = [
    *combinations(["same", "noisy", "other", "ngram", "none", "tree"], 2),
    ("noisy", "other", "ngram"),
    ("ngram", "tree", "other", "noisy"),
]
"""Members for the round loop, as `on_toys` makes them."""


def on_toys(names: Sequence[str]) -> list[Drafter]:
    """Make drafters for the target `ToyModel(0)`: itself, models like and unlike it, and others."""
    models = {"same": (0, 0.0), "noisy": (0, 0.5), "other": (9, 0.0)}
    return [
        ModelDrafter(ToyModel(*models[name]), name) if name in models else DRAFTERS[name]()
        for name in names
    ]
