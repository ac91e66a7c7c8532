"""Train the draft: prune the teacher to a few layers, heal them on its labelled answers.

    nice -n 19 python -m training.train --run NAME --shards FOLDER [--resume] [--until HH:MM]

Checkpoints, log, stopping and finishing are those of every run: see `run.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.adapter import adapt, read_layers
from training.corpus import Batch, Dialogue, collate, read_shards
from training.exam import Question, examine, prepare
from training.llama import Llama
from training.objective import Head, loss
from training.run import TrainingRun, add_run_arguments, go, keep_head
from training.teacher import HOME, set_up, teacher_folder


def prune(teacher: Llama, layers: list[int]) -> Llama:
    """Make a draft of some of the teacher's layers, sharing its embedding."""
    draft = Llama(replace(teacher.shape, layers=len(layers)), teacher.embedding)
    for new, old in zip(draft.layers, layers, strict=True):
        new.load_state_dict(teacher.layers[old].state_dict())
    draft.norm.load_state_dict(teacher.norm.state_dict())
    return draft


def new_draft(teacher: Llama, layers: list[int], shipped: Path | None, rank: int) -> Llama:
    """Make the draft that a run starts from: pruned layers, or shipped ones with a correction."""
    return prune(teacher, layers) if shipped is None else adapt(read_layers(shipped, teacher), rank)


class Run(TrainingRun[Dialogue, Batch]):
    """The healing of some of the teacher's layers, or the learning of their correction."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = HOME / "runs" / options.run
        folder.mkdir(parents=True, exist_ok=True)
        teacher = Llama.read(teacher_folder(options.teacher))
        layers = [int(layer) for layer in options.layers.split(",")]
        torch.manual_seed(0)
        self.draft = new_draft(teacher, layers, options.shipped, options.rank)
        head_path = keep_head(options.head, folder)
        self.head = Head(torch.from_numpy(np.load(head_path).astype(np.int64)), teacher.embedding)
        shipped = str(options.shipped or "")  # "" where the teacher was pruned
        made_of = {"layers": layers, "shipped": shipped, "rank": options.rank}
        super().__init__(options, folder, self.draft, made_of)
        self.questions = self.held_out(teacher)

    def held_out(self, teacher: Llama) -> list[Question]:
        """Take the held-out answers, the same ones for the whole run."""
        path = self.folder / "held-out.pt"
        if not path.exists():
            chosen = [d for d in read_shards(self.options.shards) if d.held_out]
            torch.save([asdict(question) for question in prepare(teacher, chosen)], path)
        return [Question(**tensors) for tensors in torch.load(path)]

    def read(self, shards: Sequence[str]) -> list[Dialogue]:
        dialogues = read_shards(self.options.shards, shards)
        return [dialogue for dialogue in dialogues if not dialogue.held_out]

    def collate(self, chosen: Sequence[Dialogue], pick: int) -> Batch:
        return collate(chosen)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        logits = self.draft(batch.ids)[batch.predicts] @ self.head.rows.T
        value = loss(logits, batch, self.head, self.options.overlap_weight)
        return value, len(batch.next_ids)

    def examine(self) -> dict[str, float]:
        return examine(self.draft, self.questions, self.head)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_run_arguments(parser, shards="shards")
    parser.add_argument("--layers", default="0,1,2,10,20,29", help="teacher layers to start from")
    parser.add_argument(
        "--shipped", type=Path, help="learn a correction of this shipped draft's layers instead"
    )
    parser.add_argument("--rank", type=int, default=64, help="of the correction")
    parser.add_argument("--batch-tokens", type=int, default=900, help="with prompts and padding")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--overlap-weight", type=float, default=0.0)
    parser.add_argument("--warm-up-steps", type=int, default=20)
    parser.add_argument("--mean-decay", type=float, default=0.99)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the training."""
    options = parse()
    set_up(options.threads)
    go(Run(options))


if __name__ == "__main__":
    main()
