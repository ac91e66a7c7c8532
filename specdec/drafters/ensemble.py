"""Several drafters with one voice: each token is drawn from a mixture of their distributions.

At each position the draft's distribution is q = Σ w_m q_m over the members m that have an opinion.
The token is drawn from q, and q is what it is tested against, so nothing changes in the proof of
the acceptance rule, whatever the weights, as long as they and the choice of members are settled
before the draw. Σ min(p, q) is concave in q: the mixture is accepted at least as often as its
members are on the average, and most often more than the best one is alone.

The weights are learnt in the run, by exponential weights (Hedge: Freund and Schapire 1997,
https://doi.org/10.1006/jcss.1997.1504) over each member's recent mean of Σ min(p, q_m). That is
known at every position that the target scored, also behind a rejected token, and needs no pass of
its own. Within a round the weights stand still: they depend on the rounds before it only.

The price is that every member is asked at every position.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from specdec.acceptance import Draft, Verdict, overlap
from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.drafters.several import MemberRuns, SeveralDrafters
from specdec.errors import SettingsError
from specdec.policies.base import Budget
from specdec.sampling import Distribution, Sampler, sample

Law = Distribution | int
"""What a member says of the next token; of one that chooses, the token: a point mass."""

RATE = 0.1
"""How far a member's recent mean moves towards what was last seen of it."""
SHARPNESS = 10.0
"""Weights are in proportion to exp(SHARPNESS · mean). Of 5, 10, 20 and 40, and of weights in
proportion to the means, the best or within 0.002 of it for each of seven groups of two to four
simulated members, from equal ones to one that is far better."""
_UNHEARD = 0.5
"""The mean of a member that nothing is known of yet."""


class EnsembleDrafter(SeveralDrafters):
    """Draw a chain of tokens from the weighted mixture of two to four drafters.

    A member is asked for one token at a time, and only its distribution is used, so that any
    drafter may be one. Members are not told what became of a draft: it is not theirs. A token is
    put down to the member that gave it most of its probability in the mixture.
    """

    sign = "+"

    def __init__(self, members: Sequence[Drafter]) -> None:
        """Take two to four drafters, none of them a group: it would never learn what came of it.

        Raises:
            SettingsError: as for any group, or a member is one.
        """
        super().__init__(members)
        for member in members:
            if isinstance(member, SeveralDrafters):
                raise SettingsError(
                    f"An ensemble mixes single drafters, and {member.name} is a group of them."
                )

    def start(self, prompt: Sequence[int]) -> EnsembleRun:
        return EnsembleRun(MemberRuns(self.members, prompt))


class EnsembleRun(DrafterRun):
    """The members' state in one run, and how good each of them was of late."""

    def __init__(self, members: MemberRuns) -> None:
        self._members = members
        self._means = np.full(len(members), _UNHEARD)
        self._said: list[list[Law | None]] = []  # at each drafted token, by member

    @property
    def weights(self) -> NDArray[np.float64]:
        """Return the weights [num_members] of the next draft; they sum to 1."""
        weights = np.exp(SHARPNESS * (self._means - self._means.max()))
        normalised: NDArray[np.float64] = weights / weights.sum()
        return normalised

    def propose(
        self,
        context: Sequence[int],
        budget: Budget,
        sampler: Sampler,
        rng: np.random.Generator,
        hidden: Hidden | None = None,
    ) -> Draft:
        depth = min(budget.depth, budget.num_nodes)
        opinions = [
            Opinion(run, context, depth, sampler, self._members.hidden_for(index, hidden))
            for index, run in enumerate(self._members.runs)
        ]
        weights, greedy = self.weights, sampler.temperature == 0.0
        self._said = []
        drafted: list[int] = []
        distributions: list[Distribution | None] = []
        drafted_by: list[str] = []
        sample_s = 0.0
        for _ in range(depth):
            said = [opinion.after(drafted) for opinion in opinions]
            began_s = time.perf_counter()
            law = mix(said, weights, greedy=greedy)
            if law is None or (isinstance(law, Distribution) and budget.stops_at(law)):
                break  # settled before anything is drawn
            drafted.append(law if isinstance(law, int) else sample(law.probs, rng))
            drafted_by.append(self._members.names[backer(said, weights, drafted[-1])])
            distributions.append(None if isinstance(law, int) else law)
            self._said.append(said)
            sample_s += time.perf_counter() - began_s
        sample_s += sum(opinion.sample_s for opinion in opinions)
        chain = Draft.chain(drafted, distributions, sample_s)
        return replace(chain, drafted_by=tuple(drafted_by))

    def observe(self, draft: Draft, rows: Sequence[Distribution | None], verdict: Verdict) -> None:
        """Learn the weights of the next draft from what each member would have had accepted."""
        for row, said in zip(rows, self._said, strict=False):  # nobody spoke behind the last token
            if row is None:
                continue
            for index, law in enumerate(said):
                if law is not None:
                    passing = _passing(row, law)
                    self._means[index] += RATE * (passing - self._means[index])

    def close(self) -> None:
        self._members.close()


class Opinion:
    """What one member says of the tokens of one draft, asked for one token at a time.

    The token with which a member answers is thrown away and its distribution kept; it draws from
    a random generator of its own, so that no draw of the run depends on it.

    A member that draws is asked anew behind every drafted token; its cache follows. One that
    chooses may read what it is given as output, never to forget it (an n-gram index), so it is
    asked once for all it has to say, and followed as long as the draft reads like it. From then on,
    or if it had nothing to say at first, it has no opinion in this draft.
    """

    def __init__(
        self,
        run: DrafterRun,
        context: Sequence[int],
        depth: int,
        sampler: Sampler,
        hidden: Hidden | None,
    ) -> None:
        """Ask the member behind `context`, of which it has an opinion up to `depth` tokens on."""
        self._run = run
        self._context = list(context)
        self._sampler = sampler
        self._hidden = hidden
        self._rng = np.random.default_rng(0)
        self.sample_s = 0.0
        self._ahead = self._ask([], min(depth, 1))
        self._draws = len(self._ahead) > 0 and self._ahead.distributions[0] is not None
        if len(self._ahead) and not self._draws and depth > 1:
            self._ahead = self._ask([], depth)

    def _ask(self, drafted: Sequence[int], depth: int) -> Draft:
        sequence = [*self._context, *drafted]
        budget = Budget.chain(depth)
        draft = self._run.propose(sequence, budget, self._sampler, self._rng, self._hidden)
        self.sample_s += draft.sample_s
        return draft

    def after(self, drafted: Sequence[int]) -> Law | None:
        """Return the law of the token behind `drafted`, None where the member has no opinion."""
        if self._draws and drafted:
            draft = self._ask(drafted, 1)
            node = 0 if len(draft) else None
        else:
            draft = self._ahead
            node = _first_behind(draft, drafted)
        if node is None:
            return None
        law = draft.distributions[node]
        return draft.token_ids[node] if law is None else law


def _first_behind(draft: Draft, token_ids: Sequence[int]) -> int | None:
    """Return the first child of the node whose path reads `token_ids`, None if there is none."""
    children = draft.children()
    node = -1
    for token_id in token_ids:
        alike = [one for one in children[node + 1] if draft.token_ids[one] == token_id]
        if not alike:
            return None
        node = alike[0]
    return next(iter(children[node + 1]), None)


def mix(said: Sequence[Law | None], weights: NDArray[np.float64], *, greedy: bool) -> Law | None:
    """Return the mixture of what was said, by `weights` [num_members]; None where nothing was.

    Members without an opinion are left out, and the weights of the others made to sum to 1. Point
    masses alone do not tell how large the vocabulary is: of these the token with most weight is
    chosen, as is the likeliest one of the mixture where decoding is `greedy`.
    """
    laws = [(law, float(w)) for law, w in zip(said, weights, strict=True) if law is not None]
    dense = [law for law, _ in laws if isinstance(law, Distribution)]
    if not dense:
        votes: dict[int, float] = {}
        for token_id, weight in laws:
            assert isinstance(token_id, int)
            votes[token_id] = votes.get(token_id, 0.0) + weight
        return max(votes, key=lambda token_id: votes[token_id], default=None)
    if len(laws) == 1:
        return dense[0]
    total = sum(weight for _, weight in laws)
    probs, own_probs = np.zeros_like(dense[0].probs), np.zeros_like(dense[0].probs)
    for law, weight in laws:
        if isinstance(law, int):
            probs[law] += weight / total
            own_probs[law] += weight / total
        else:
            probs += (weight / total) * law.probs
            own_probs += (weight / total) * np.exp(law.logits - law.log_normalizer)
    if greedy:
        probs = (np.arange(probs.size) == probs.argmax()).astype(probs.dtype)
    # The members' own distributions (temperature 1) are mixed too, for the records to show.
    return replace(Distribution.from_probs(own_probs), probs=probs)


def backer(said: Sequence[Law | None], weights: NDArray[np.float64], token_id: int) -> int:
    """Return who gave the mixture most of a token's probability, of equals the first.

    It is asked once the token is drawn, of what was said before, and so changes nothing.
    """
    shares = [
        float(weight) * (0.0 if law is None else _prob_of(law, token_id))
        for law, weight in zip(said, weights, strict=True)
    ]
    return shares.index(max(shares))


def _prob_of(law: Law, token_id: int) -> float:
    return float(law == token_id) if isinstance(law, int) else float(law.probs[token_id])


def _passing(row: Distribution, law: Law) -> float:
    """Return Σ min(p, q) of the target's `row` and what a member said."""
    if isinstance(law, int):
        return float(row.probs[law])
    return overlap(row.probs, law.probs)
