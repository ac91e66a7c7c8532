"""Train the draft: prune the teacher to a few layers, heal them on its labelled answers.

    nice -n 19 python -m training.train --run NAME --shards FOLDER [--resume] [--until HH:MM]

The state lives in `~/.cache/specdec-training/runs/NAME`: `checkpoint.pt` (everything needed to go
on, written whole or not at all), `decayed.pt` (the same, once the learning rate is on its way
down), `draft_token_ids.npy` and `log.jsonl`. Stop it with SIGTERM or SIGKILL, pause it with
SIGSTOP; `--resume` continues from `checkpoint.pt`. The learning rate is constant after the warm-up,
so the length need not be known: give `--until` when it is, and the rate falls linearly to zero
over the last `--decay-minutes` before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from training.adapter import adapt, read_layers
from training.corpus import (
    Batch,
    Dialogue,
    by_length,
    collate,
    read_shards,
)
from training.exam import Question, examine, prepare
from training.llama import Llama
from training.objective import Head, loss
from training.teacher import HOME, add_teacher_argument, teacher_folder

SORTED_TOGETHER = 128  # dialogues per pool that is cut into batches of similar lengths


@dataclass(slots=True)
class Progress:
    """Where the run stands; with the weights, all that a checkpoint needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    batch: int = 0
    shards: list[str] = field(default_factory=list)


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


def trained_parameters(draft: Llama) -> list[nn.Parameter]:
    """Return what is learnt: everything, or the correction alone."""
    return [parameter for parameter in draft.parameters() if parameter.requires_grad]


def epoch_batches(train: list[Dialogue], epoch: int, tokens: int) -> Iterator[list[Dialogue]]:
    """Yield one epoch's batches in an order that the epoch's number decides."""
    rng = np.random.default_rng(epoch)
    order = rng.permutation(len(train))
    for first in range(0, len(order), SORTED_TOGETHER):
        batches = by_length([train[i] for i in order[first : first + SORTED_TOGETHER]], tokens)
        yield from (batches[i] for i in rng.permutation(len(batches)))


class Run:
    """One training run: weights, their running mean, optimisers, data and log."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = HOME / "runs" / options.run
        self.folder.mkdir(parents=True, exist_ok=True)
        teacher = Llama.read(teacher_folder(options.teacher))
        self.layers = [int(layer) for layer in options.layers.split(",")]
        torch.manual_seed(0)
        self.draft = new_draft(teacher, self.layers, options.shipped, options.rank)
        self.trained = trained_parameters(self.draft)
        self.mean = [p.detach().clone() for p in self.trained]
        self.optimiser = AdamW(self.trained, lr=options.rate, betas=(0.9, 0.95), weight_decay=0.01)
        head_path = self.folder / "draft_token_ids.npy"
        if not head_path.exists():
            head_path.write_bytes(options.head.read_bytes())
        self.head = Head(torch.from_numpy(np.load(head_path).astype(np.int64)), teacher.embedding)
        self.progress = Progress()
        self.stopping = False
        if options.resume:
            self.load(self.folder / "checkpoint.pt")
        self.questions = self.held_out(teacher)

    def held_out(self, teacher: Llama) -> list[Question]:
        """Take the held-out answers, the same ones for the whole run."""
        path = self.folder / "held-out.pt"
        if not path.exists():
            chosen = [d for d in read_shards(self.options.shards) if d.held_out]
            torch.save([asdict(question) for question in prepare(teacher, chosen)], path)
        return [Question(**tensors) for tensors in torch.load(path)]

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path)
        if state["layers"] != self.layers:
            raise SystemExit(f"{path} holds layers {state['layers']}: give --layers accordingly.")
        self.draft.load_state_dict(state["draft"])
        self.mean = state["mean"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        path = self.folder / ("decayed.pt" if self.rate_scale() < 1 else "checkpoint.pt")
        partial = path.with_suffix(".partial")
        state = {
            "layers": self.layers,
            "shipped": str(self.options.shipped or ""),  # "" where the teacher was pruned
            "rank": self.options.rank,
            "draft": self.draft.state_dict(),
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
        logits = self.draft(batch.ids)[batch.predicts] @ self.head.rows.T
        value = loss(logits, batch, self.head, self.options.overlap_weight)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.progress.step += 1
        self.progress.tokens += len(batch.next_ids)
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
        figures = examine(self.draft, self.questions, self.head)
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
            dialogues = read_shards(self.options.shards, progress.shards)
            train = [dialogue for dialogue in dialogues if not dialogue.held_out]
            batches = epoch_batches(train, progress.epoch, self.options.batch_tokens)
            for number, chosen in enumerate(batches):
                if number < progress.batch:
                    continue
                progress.batch = number + 1
                yield collate(chosen)
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
        held = sum(len(question.best) for question in self.questions)
        self.write_log({"event": "start", "held_out_tokens": held, "options": str(options)})
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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--shards", type=Path, default=HOME / "shards")
    parser.add_argument("--head", type=Path, default=HOME / "draft_token_ids.npy")
    parser.add_argument("--layers", default="0,1,2,10,20,29", help="teacher layers to start from")
    parser.add_argument(
        "--shipped", type=Path, help="learn a correction of this shipped draft's layers instead"
    )
    parser.add_argument("--rank", type=int, default=64, help="of the correction")
    parser.add_argument("--batch-tokens", type=int, default=900, help="with prompts and padding")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--overlap-weight", type=float, default=0.0)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--warm-up-steps", type=int, default=20)
    parser.add_argument("--mean-decay", type=float, default=0.99)
    parser.add_argument("--judge-minutes", type=float, default=8)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--until", type=clock, help="HH:MM, local time")
    parser.add_argument("--decay-minutes", type=float, default=30)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    add_teacher_argument(parser)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the training."""
    options = parse()
    torch.set_num_threads(options.threads)
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "pid").write_text(f"{os.getpid()}\n")
    Run(options).train()


if __name__ == "__main__":
    main()
