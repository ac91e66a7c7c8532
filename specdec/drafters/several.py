"""What drafters of several members have in common: who they are, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import ClassVar

from specdec.drafters.base import Drafter, DrafterRun, Hidden
from specdec.errors import SettingsError
from specdec.targets.base import Wanted

MAX_MEMBERS = 4


class SeveralDrafters(Drafter):
    """Two to four drafters that draft together; `sign` stands between their names."""

    sign: ClassVar[str]

    def __init__(self, members: Sequence[Drafter]) -> None:
        """Take the members in the order in which they are asked.

        Raises:
            SettingsError: there are too few or too many, two have one name, or two want the
                hidden states of different layers.
        """
        names = [member.name for member in members]
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise SettingsError(
                f"Drafters work together in groups of 2 to {MAX_MEMBERS}, not {len(members)}."
            )
        if len(set(names)) < len(names):
            raise SettingsError(
                f"Each of several drafters must be another one: {', '.join(names)}."
            )
        self.members = tuple(members)
        self._wants = common_wants(members)

    @property
    def name(self) -> str:
        return self.sign.join(member.name for member in self.members)

    @property
    def wants(self) -> Wanted:
        return self._wants


def common_wants(members: Sequence[Drafter]) -> Wanted:
    """Return what the members want together; the target gives hidden states in one form only.

    Raises:
        SettingsError: two want those of different layers.
    """
    layers = {m.wants.hidden_layers: m.name for m in members if m.wants.hidden_layers}
    if len(layers) > 1:
        raise SettingsError(
            f"{' and '.join(layers.values())} read different layers of the target, so they cannot "
            "draft together; leave one of them out."
        )
    return Wanted(next(iter(layers), ()), any(member.wants.attention for member in members))


class MemberRuns:
    """The members' state within one run, in their order."""

    def __init__(self, members: Sequence[Drafter], prompt: Sequence[int]) -> None:
        """Let each member read the prompt; if one cannot, the others are closed again."""
        self.names = tuple(member.name for member in members)
        self._wanting = tuple(bool(member.wants) for member in members)
        with ExitStack() as opened:
            self.runs: tuple[DrafterRun, ...] = tuple(
                opened.enter_context(closing(member.start(prompt))) for member in members
            )
            self._open = opened.pop_all()

    def __len__(self) -> int:
        return len(self.runs)

    def hidden_for(self, index: int, hidden: Hidden | None) -> Hidden | None:
        """Return the target's hidden states if the member `index` wants them."""
        return hidden if self._wanting[index] else None

    def close(self) -> None:
        """Release what every member holds."""
        self._open.close()
