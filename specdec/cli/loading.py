"""What commands share: settings from the options, models with a bar while they arrive."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from specdec.cli.text import printable
from specdec.pair import LoadedModel, load_model
from specdec.settings import RunConfig
from specdec.targets.server.faults import Waiting


def config_of(options: argparse.Namespace) -> RunConfig:
    names = [field.name for field in fields(RunConfig)]
    return RunConfig(**{name: getattr(options, name) for name in names if name in options})


def load(name: str, place: str) -> LoadedModel:
    with ProgressBar() as progress:
        return load_model(name, place, progress.report)


def tell_waiting(waiting: Waiting) -> None:
    if waiting.begins:
        Console(stderr=True, soft_wrap=True).print(Text(printable(str(waiting))))


class ProgressBar:
    """A bar on a terminal's standard error, from the first report until all is done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._terminal = Console(stderr=True)
        self._bar = Progress(*columns, console=self._terminal, transient=True)
        self._task = self._bar.add_task("", visible=False)

    def __enter__(self) -> ProgressBar:
        return self

    def report(self, done: int, total: int | None, what: str) -> None:
        if not self._terminal.is_terminal:
            return
        if not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=what, visible=True)

    def __exit__(self, *exc: object) -> None:
        if self._bar.live.is_started:  # or it would print an empty line
            self._bar.stop()


def answers(prompt: str, prompt_ids: Sequence[int]) -> list[list[int]]:
    """Return what saved runs answered to the same prompt."""
    from specdec.saved.store import RunStore  # no other draft waits for it

    with closing(RunStore()) as store:
        return store.answers(prompt, prompt_ids)
