"""What a shared machine offers to whoever reaches the page: everything, or what its owner lists.

`SPECDEC_MODELS` lists the models that may be opened, `SPECDEC_TARGETS` what may be a target, each
as names separated by commas: known models, Hugging Face ids, folders (with all that lies in them),
and, for targets, the servers of `.env` as @name. A list that is not set restricts nothing. What is
not offered is refused before anything is looked up, in words that are the same whether it exists
or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from specdec.errors import SettingsError
from specdec.settings import is_endpoint, variables


@dataclass(frozen=True, slots=True)
class Offers:
    """The two lists; None is no restriction."""

    models: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None

    @classmethod
    def from_environment(cls) -> Offers:
        """Read `.env` and the environment, as they are at this moment.

        Raises:
            SettingsError: `.env` cannot be read.
        """
        found = variables()
        return cls(*(_listed(found.get(f"SPECDEC_{kind}")) for kind in ("MODELS", "TARGETS")))

    @property
    def takes_names(self) -> bool:
        """Say whether a name that is typed in may be more than one of those listed."""
        return self.models is None or any(map(_holds_models, self.models))

    @property
    def named(self) -> tuple[str, ...]:
        """The entries of the lists that name one model each."""
        listed = dict.fromkeys((*(self.models or ()), *(self.targets or ())))
        return tuple(n for n in listed if not is_endpoint(n) and not _holds_models(n))

    def check_model(self, name: str) -> None:
        """Refuse a model, or a server, that is not offered.

        Raises:
            SettingsError: it is not; the message tells nothing about it but its name.
        """
        if is_endpoint(name):
            lists: list[tuple[str, ...] | None] = [self.targets]
        elif self.models is None:
            return
        else:  # what may be a target may be opened
            lists = [self.models, self.targets or ()]
        if not any(listed is None or _includes(listed, name) for listed in lists):
            raise _refusal(name, [one for listed in lists for one in listed or ()])

    def check_target(self, name: str) -> None:
        """Refuse what is not offered as a target.

        Raises:
            SettingsError: it is not; the message tells nothing about it but its name.
        """
        if self.targets is not None and not _includes(self.targets, name):
            raise _refusal(name, self.targets)
        self.check_model(name)

    def targets_among(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that may be a target."""
        return [name for name in names if not _refuses(self.check_target, name)]

    def models_among(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that may be opened."""
        return [name for name in names if not _refuses(self.check_model, name)]


def _listed(text: str | None) -> tuple[str, ...] | None:
    """Return the names of a list; one that is set and empty offers nothing."""
    return (
        None if text is None else tuple(name for part in text.split(",") if (name := part.strip()))
    )


def _is_folder(entry: str) -> bool:
    return os.path.isdir(os.path.expanduser(entry))


def _holds_models(entry: str) -> bool:
    """Say whether an entry is a folder, and not that of one model."""
    return _is_folder(entry) and not (Path(os.path.expanduser(entry)) / "config.json").is_file()


def _includes(listed: Collection[str], name: str) -> bool:
    if name in listed:
        return True
    if is_endpoint(name):
        return False
    place = Path(os.path.expanduser(name)).resolve()  # links and .. lead where they lead
    return any(
        place.is_relative_to(Path(os.path.expanduser(entry)).resolve())
        for entry in listed
        if _is_folder(entry)
    )


def _refuses(check: Callable[[str], None], name: str) -> bool:
    try:
        check(name)
    except SettingsError:
        return True
    return False


def _refusal(name: str, listed: Collection[str]) -> SettingsError:
    shown = [entry for entry in dict.fromkeys(listed) if not _holds_models(entry)]
    instead = f"choose {', '.join(shown)}" if shown else "ask whoever runs it"
    return SettingsError(f"This machine does not offer {name!r:.200}; {instead}.")
