"""What every training run here has: a running mean of the weights, checkpoints, a log, an exam.

The state lives in `~/.cache/specdec-training/runs/NAME`: `checkpoint.pt` (everything needed to go
on, written whole or not at all), `decayed.pt` (the same, once the learning rate is on its way
down), the head's token ids, and `log.jsonl`. The learning rate is constant after the warm-up, so
the length need not be known: give `--until` when it is, and the rate falls linearly to zero over
the last `--decay-minutes` before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from training.corpus import Dialogue, by_length
from training.teacher import HOME, add_teacher_argument

SORTED_TOGETHER = 128  # dialogues per pool that is cut into batches of similar lengths
HEAD_IDS = "draft_token_ids.npy"

Read = TypeVar("Read", bound=Dialogue)
Batch = TypeVar("Batch")


@dataclass(slots=True)
class Progress:
    """Where the run stands; with the weights, all that a checkpoint needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    batch: int = 0
    shards: list[str] = field(default_factory=list)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what is learnt of a model: everything that is not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def epoch_batches(train: Sequence[Read], epoch: int, tokens: int) -> Iterator[list[Read]]:
    """Yield one epoch's batches in an order that the epoch's number decides."""
    rng = np.random.default_rng(epoch)
    order = rng.permutation(len(train))
    for first in range(0, len(order), SORTED_TOGETHER):
        batches = by_length([train[i] for i in order[first : first + SORTED_TOGETHER]], tokens)
        yield from (batches[i] for i in rng.permutation(len(batches)))


class TrainingRun(ABC, Generic[Read, Batch]):
    """One run; a subclass says what is learnt, from what, and how it is judged."""

    def __init__(
        self,
        options: argparse.Namespace,
        folder: Path,
        model: nn.Module,
        made_of: dict[str, Any],
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        """Begin, or go on where `options.resume` says so.

        Args:
            options: the command line's.
            folder: of this run.
            model: to be trained, where its parameters are not frozen.
            made_of: what the model was made of; a checkpoint made of something else is refused.
            betas: of AdamW.
        """
        self.options, self.folder, self.model, self.made_of = options, folder, model, made_of
        self.trained = trained_parameters(model)
        self.mean = [p.detach().clone() for p in self.trained]
        self.optimiser = AdamW(self.trained, lr=options.rate, betas=betas, weight_decay=0.01)
        self.progress = Progress()
        self.stopping = False
        if options.resume:
            self.load(folder / "checkpoint.pt")

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Return what the batch costs, and how many answer tokens it has."""

    @abstractmethod
    def read(self, shards: Sequence[str]) -> Sequence[Read]:
        """Read what is to be trained on of the named shards."""

    @abstractmethod
    def collate(self, chosen: Sequence[Read], pick: int) -> Batch:
        """Make one batch; `pick`, a number of its own, may choose what of it is learnt from."""

    @abstractmethod
    def examine(self) -> dict[str, float]:
        """Judge the model as it is on the held-out answers."""

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path)
        if state["made_of"] != self.made_of:
            raise SystemExit(f"{path} was made of {state['made_of']}: give the same options.")
        self.model.load_state_dict(state["model"])
        self.mean = state["mean"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        path = self.folder / ("decayed.pt" if self.rate_scale() < 1 else "checkpoint.pt")
        partial = path.with_suffix(".partial")
        state = {
            "made_of": self.made_of,
            "model": self.model.state_dict(),
            "mean": self.mean,
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        torch.save(state, partial)
        os.replace(partial, path)

    def rate_scale(self) -> float:
        """The decay's factor on the learning rate: one until the last minutes before the end."""
        if self.options.until is None:
            return 1.0
        left_s = (self.options.until - datetime.now()).total_seconds()
        return min(1.0, max(0.0, left_s / (60 * self.options.decay_minutes)))

    def learn(self, batch: Batch) -> tuple[float, float]:
        """Take one step; loss and gradient norm."""
        warm = min(1.0, (self.progress.step + 1) / self.options.warm_up_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate * warm * self.rate_scale()
        value, num_tokens = self.loss(batch)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.progress.step += 1
        self.progress.tokens += num_tokens
        self.follow()
        return value.item(), norm.item()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the running mean of the weights, faster while there is little to average."""
        pace = max(1 - self.options.mean_decay, 1 / (1 + self.progress.step / 4))
        for mean, parameter in zip(self.mean, self.trained, strict=True):
            mean.lerp_(parameter, pace)

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """Evaluate the running mean on the held-out answers."""
        current = [p.clone() for p in self.trained]
        self.fill(self.mean)
        figures = self.examine()
        self.fill(current)
        return figures

    @torch.no_grad()
    def fill(self, values: list[Tensor]) -> None:
        """Put values into the parameters that are trained."""
        for parameter, value in zip(self.trained, values, strict=True):
            parameter.copy_(value)

    def batches(self) -> Iterator[Batch]:
        """Yield batches for ever; new shards join at the next epoch."""
        progress = self.progress
        while True:
            if progress.batch == 0:
                progress.shards = sorted(path.name for path in self.options.shards.glob("*.npz"))
            train = self.read(progress.shards)
            for number, chosen in enumerate(
                epoch_batches(train, progress.epoch, self.options.batch_tokens)
            ):
                if number < progress.batch:
                    continue
                progress.batch = number + 1
                yield self.collate(chosen, progress.step)
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def write_log(self, entry: dict[str, object]) -> None:
        """Append one line to the log."""
        now = datetime.now().isoformat(timespec="seconds")
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"time": now} | entry) + "\n")

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Ask for an end after the current step."""
        self.stopping = True

    def train(self) -> None:
        """Train until told to stop, saving and evaluating by the clock."""
        signal.signal(signal.SIGTERM, self.stop)
        progress, options = self.progress, self.options
        self.write_log({"event": "start", "options": str(options)})
        last = saved = time.monotonic()
        judged, losses = float("-inf"), []
        for batch in self.batches():
            value, norm = self.learn(batch)
            losses.append(value)
            now = time.monotonic()
            progress.seconds, last = progress.seconds + now - last, now
            over = self.stopping or self.rate_scale() == 0
            if over or now - judged > 60 * options.judge_minutes:
                figures = {} if self.stopping else self.judge()
                self.write_log(
                    {
                        "step": progress.step,
                        "tokens": progress.tokens,
                        "hours": round(progress.seconds / 3600, 3),
                        "epoch": progress.epoch,
                        "rate": self.optimiser.param_groups[0]["lr"],
                        "loss": round(float(np.mean(losses)), 4),
                        "gradient": round(norm, 3),
                    }
                    | figures
                )
                judged, losses = time.monotonic(), []
                last = judged  # an exam is no training
            if over or now - saved > 60 * options.save_minutes:
                self.save()
                saved = time.monotonic()
            if over:
                return


def clock(text: str) -> datetime:
    """Read HH:MM as the next such moment."""
    hour, minute = map(int, text.split(":"))
    moment = datetime.now().replace(hour=hour, minute=minute, second=0, microsecond=0)
    return moment if moment > datetime.now() else moment + timedelta(days=1)


def add_run_arguments(parser: argparse.ArgumentParser, *, shards: str) -> None:
    """Add what every training can be told; `shards` names the folder of its data."""
    parser.add_argument("--run", required=True)
    parser.add_argument("--shards", type=Path, default=HOME / shards)
    parser.add_argument("--head", type=Path, default=HOME / HEAD_IDS)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--judge-minutes", type=float, default=8)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--until", type=clock, help="HH:MM, local time")
    parser.add_argument("--decay-minutes", type=float, default=30)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    add_teacher_argument(parser)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every export of a run can be told."""
    parser.add_argument("--run", required=True)
    parser.add_argument("--ship", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--decayed", action="store_true", help="use decayed.pt")
    parser.add_argument("--exam", action="store_true")
    add_teacher_argument(parser)


def checkpoint_of(options: argparse.Namespace) -> Path:
    """Return the checkpoint that an export is to take."""
    name = "decayed.pt" if options.decayed else "checkpoint.pt"
    return HOME / "runs" / str(options.run) / name


def keep_head(given: Path, folder: Path) -> Path:
    """Copy a head's token ids into a run's folder, once: they stay the same for the whole run."""
    path = folder / HEAD_IDS
    if not path.exists():
        path.write_bytes(given.read_bytes())
    return path


def go(run: TrainingRun[Any, Any]) -> None:
    """Train, with the process's number where the documentation says it is."""
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "pid").write_text(f"{os.getpid()}\n")
    run.train()
