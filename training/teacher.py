"""Where the teacher is, and where everything that a training makes is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

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


def set_up(threads: int) -> None:
    """Use `threads` threads, and products of bfloat16 where the processor has units for them.

    Inputs of a product are rounded to eight bits then (AMX, four times as fast on two cores), sums
    and everything else stay in fp32; other processors multiply in fp32 as ever.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")


def attention_dtype() -> torch.dtype:
    """Return the type that attention is fastest in here."""
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
