"""What each member of a group of drafters was worth in a run, from the tokens it proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.records import RoundResult, TokenStatus

_TESTED = (TokenStatus.ACCEPTED, TokenStatus.REJECTED)


@dataclass(frozen=True, slots=True)
class MemberWorth:
    """One member's tokens, over the rounds that a group drafted.

    Attributes:
        name: of the member.
        num_drafted: tokens it proposed, a token that several proposed counted for one of them.
        num_tested: those that the rule came to; the others stood behind a rejected token or beside
            an accepted one.
        num_accepted: those that passed.
        accepted_per_round: over the rounds in which it proposed anything.
        share_of_output: its tokens among all that these rounds emitted; what is left to 1 is the
            target's own resampled and bonus tokens.
    """

    name: str
    num_drafted: int
    num_tested: int
    num_accepted: int
    accepted_per_round: float
    share_of_output: float


def members_worth(rounds: Sequence[RoundResult]) -> list[MemberWorth]:
    """Return what every member was worth, in the order in which they first drafted.

    Empty where no token names a member: one drafter, or a run from before they were named.
    """
    of_group = [r for r in rounds if any(one.drafted_by for one in r.candidates)]
    names = dict.fromkeys(one.drafted_by for r in of_group for one in r.candidates)
    num_emitted = sum(len(result.emitted) for result in of_group)
    return [_worth(name, of_group, num_emitted) for name in names if name]


def _worth(name: str, rounds: Sequence[RoundResult], num_emitted: int) -> MemberWorth:
    own = [[one for one in r.candidates if one.drafted_by == name] for r in rounds]
    records = [one for of_round in own for one in of_round]
    num_accepted = sum(one.status is TokenStatus.ACCEPTED for one in records)
    num_output = sum(one.drafted_by == name for r in rounds for one in r.tokens)
    return MemberWorth(
        name,
        num_drafted=len(records),
        num_tested=sum(one.status in _TESTED for one in records),
        num_accepted=num_accepted,
        accepted_per_round=num_accepted / sum(map(bool, own)),
        share_of_output=num_output / num_emitted if num_emitted else 0.0,
    )
