"""What a drafter is: it sees the context and proposes a tree of tokens.

A strategy subclasses `Drafter` and `DrafterRun` and says only what is particular to it; what most
strategies leave alone has its usual answer here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft, Verdict
from specdec.policies.base import Budget
from specdec.sampling import Distribution, Sampler
from specdec.targets.base import LOGITS_ONLY, Wanted

Hidden = NDArray[np.float32]
"""[num_tokens, num_layers, width]: the target's hidden states, as `Wanted.hidden_layers` asks."""


class DrafterRun(Protocol):
    """A drafter's state within one run: caches and tables, never weights."""

    @abstractmethod
    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        """Draft after `context`, within `budget`; an empty draft is allowed.

        Args:
            context: prompt and output so far.
            budget: how deep and how large the draft may be; a drafter with a shape of its own heeds
                the depth.
            sampler: the one the target is sampled with.
            rng: of the run.
            hidden: a row for each token that the target has read, which is all but the last of
                the context, where the drafter `wants` them. An ensemble asks behind tokens that
                it drafted itself, too: these have none either.

        Whether to draft a further token may depend on anything known *before* it is drawn; a
        token once drawn stays in the draft, or the output would be biased (algorithms: dropping
        a sampled draft because of its own probability).
        """
        ...

    def observe(
        self,
        draft: Draft,
        rows: Sequence[Distribution | None],
        verdict: Verdict,
    ) -> None:
        """Learn what became of the draft proposed last.

        Args:
            draft: as it was proposed.
            rows: the target's distributions after the context (row 0) and after each node.
            verdict: what was accepted, and what was drawn in the end.
        """
        return

    def close(self) -> None:
        """Release what the run holds."""
        return


class Drafter(Protocol):
    """A drafting strategy with its weights, shared by every run.

    Name and shape identify it: two drafters that have both in common are one within a run, and
    share its state.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def tree(self) -> str:
        """The shape that it was given, as `RunConfig.tree` has it; empty where there is none."""
        return ""

    @property
    def wants(self) -> Wanted:
        """What it needs of the target beside logits; a target that cannot give it is refused."""
        return LOGITS_ONLY

    @abstractmethod
    def start(self, prompt: Sequence[int]) -> DrafterRun:
        """Read the prompt and return the state of a new run.

        It is the prompt that the target was given, also where the drafter is chosen in mid-run;
        what was written since stands in the context of its first draft.
        """
        ...
