"""Train a feature head: one layer that drafts from the teacher's own hidden states (EAGLE-3).

    nice -n 19 python -m training.train_feature --run NAME [--resume] [--until HH:MM]

It learns from what `python -m training.features` keeps on disk, also while that goes on. The first
of its steps stands on the teacher's states, each further one on the outputs of the step before, as
in drafting. Checkpoints, log, stopping and finishing are those of every run: see `run.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.exam import FeatureQuestion, examine_feature, prepare_features
from training.feature_batch import FeatureBatch, collate_features
from training.feature_head import from_teacher
from training.features import Watched, parse_aux, read_features
from training.llama import Llama
from training.objective import Head, Mismatch, tempered_laws
from training.run import TrainingRun, add_run_arguments, go, keep_head
from training.teacher import HOME, set_up, teacher_folder

OVERLAP_TEMPERATURES = (1.0, 0.7)
HELD_OUT = 60  # dialogues; an exam takes as long as hundreds of steps
MEASURED = 64  # dialogues, for the size of the teacher's states


class FeatureRun(TrainingRun[Watched, FeatureBatch]):
    """The training of one feature head."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = HOME / "runs" / options.run
        folder.mkdir(parents=True, exist_ok=True)
        teacher = Llama.read(teacher_folder(options.teacher))
        head_path = keep_head(options.head, folder)
        self.head = Head(torch.from_numpy(np.load(head_path).astype(np.int64)), teacher.embedding)
        torch.manual_seed(0)
        feature_head = from_teacher(teacher, len(options.aux), options.layer)
        if not options.resume:
            feature_head.scale.copy_(sizes(options.shards))
            if options.start is not None:
                feature_head.take(load_file(options.start / "model.safetensors"))
        made_of = {"aux": list(options.aux), "rows": len(self.head.ids)}
        super().__init__(options, folder, feature_head, made_of, betas=(0.9, 0.98))
        self.feature_head = feature_head
        self.questions = self.held_out()

    def held_out(self) -> list[FeatureQuestion]:
        """Take the held-out answers that the first shard begins with."""
        first = min(self.options.shards.glob("*.npz"))
        chosen = [one for one in read_features(first) if one.held_out][:HELD_OUT]
        return prepare_features(chosen, self.head, self.options.depth)

    def read(self, shards: Sequence[str]) -> list[Watched]:
        dialogues = (one for name in shards for one in read_features(self.options.shards / name))
        return [one for one in dialogues if not one.held_out]

    def collate(self, chosen: Sequence[Watched], pick: int) -> FeatureBatch:
        options = self.options
        offset = pick % options.stride
        return collate_features(chosen, self.head, options.depth, options.stride, offset)

    def loss(self, batch: FeatureBatch) -> tuple[Tensor, int]:
        options = self.options
        temperature = OVERLAP_TEMPERATURES[self.progress.step % len(OVERLAP_TEMPERATURES)]
        logits = batch.final @ self.head.rows.T
        laws = tempered_laws(logits.clone(), batch.log_sum, batch.outside, 1.0)
        cool_laws = tempered_laws(logits, batch.log_sum, batch.outside, temperature)
        embedded = self.head.embedding[batch.ids]
        outputs = self.feature_head(embedded, batch.hidden, batch.places)
        total = torch.zeros(())
        for step, (output, answers) in enumerate(zip(outputs, batch.answers, strict=True)):
            if len(output):
                mismatch = Mismatch.apply(
                    output,
                    self.head.rows,
                    laws,
                    cool_laws,
                    answers,
                    temperature,
                    options.overlap_weight,
                )
                total = total + options.fade**step * mismatch / len(output)
        return total, len(batch.final)

    def examine(self) -> dict[str, float]:
        return examine_feature(self.feature_head, self.questions, self.head)


def sizes(shards: Path) -> Tensor:
    """Root mean square of each of the teacher's states (aux · width,), over some answers."""
    first = min(shards.glob("*.npz"), default=None)
    if first is None:
        raise SystemExit(f"{shards} has no features yet: run python -m training.features first.")
    some = [one for one, _ in zip(read_features(first), range(MEASURED), strict=False)]
    rows = [one.hidden[one.response_start :].astype(np.float32) for one in some]
    mean_square = np.square(np.concatenate(rows)).mean(axis=0).reshape(-1)
    return torch.from_numpy(np.sqrt(mean_square))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_run_arguments(parser, shards="features")
    parser.add_argument("--aux", type=parse_aux, default=parse_aux("6,16,29"))
    parser.add_argument("--layer", type=int, default=29, help="the teacher's, to start from")
    parser.add_argument("--start", type=Path, help="folder of a head to start from instead")
    parser.add_argument("--depth", type=int, default=5, help="unrolled steps")
    parser.add_argument("--stride", type=int, default=2, help="chains go on from every n-th place")
    parser.add_argument(
        "--fade", type=float, default=0.8, help="weight of a step to the one before"
    )
    parser.add_argument("--batch-tokens", type=int, default=1000, help="with prompts and padding")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--overlap-weight", type=float, default=0.5)
    parser.add_argument("--warm-up-steps", type=int, default=40)
    parser.add_argument("--mean-decay", type=float, default=0.998)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the training."""
    options = parse()
    set_up(options.threads)
    go(FeatureRun(options))


if __name__ == "__main__":
    main()
