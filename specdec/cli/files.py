"""The commands that read runs from files: play one back, compare two."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from specdec.cli.text import print_pieces, print_summary, printable
from specdec.errors import SettingsError
from specdec.records import RoundResult
from specdec.runs.diff import diff_runs
from specdec.runs.replay import frames_of
from specdec.saved.trace import read_trace

MIN_SPEED, MAX_SPEED = 0.25, 8.0


def replay(options: argparse.Namespace, screen: Console) -> int:
    """Write a saved run as it was written, at its recorded times."""
    if options.speed and not MIN_SPEED <= options.speed <= MAX_SPEED:
        raise SettingsError(
            f"The speed must lie between {MIN_SPEED:g} and {MAX_SPEED:g}, or be 0 for no waiting, "
            f"not {options.speed:g}."
        )
    run = read_trace(Path(options.file))
    began_s = time.monotonic()
    for frame in frames_of(run):
        if options.speed:
            due_s = began_s + frame.time_s / options.speed
            time.sleep(max(0.0, due_s - time.monotonic()))
        if isinstance(frame.event, RoundResult):
            print_pieces(frame.event, frame.pieces, screen)
    print_summary(run, screen)
    return 0


def diff(options: argparse.Namespace, screen: Console) -> int:
    """Say what the second run does not repeat of the first; status 1 if there is anything."""
    if not options.tolerance >= 0:
        raise SettingsError(f"The tolerance must be 0 or more, not {options.tolerance:g}.")
    one, other = (read_trace(Path(path)) for path in (options.one, options.other))
    found = diff_runs(one, other, tolerance=options.tolerance)
    for setting in found.settings:
        values = " against ".join(str(value) for value in setting.values)
        screen.print(Text(printable(f"setting {setting.name}: {values}"), "dim"))
    if found.output is not None:
        screen.print(f"The outputs differ from token {found.output.position} on.")
    for sentence in found.rounds:
        screen.print(Text(printable(sentence)))
    if not found:
        screen.print("The second run repeats the first.")
    return 1 if found else 0
