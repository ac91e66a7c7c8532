"""Where the teacher is, and where everything that a training makes is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

TARGET_NAME = "smollm2-135m"
HOME = Path.home() / ".cache" / "specdec-training"


def add_teacher_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--teacher`."""
    parser.add_argument(
        "--teacher", type=Path, help=f"Hugging Face folder (default: {TARGET_NAME} of the app)"
    )


def teacher_folder(given: Path | None) -> Path:
    """Resolve `--teacher`."""
    if given is not None:
        return given
    from specdec.models.fetch.hub import resolve  # only here: training works without the app, too

    return resolve(TARGET_NAME)
