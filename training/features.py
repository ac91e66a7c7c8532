"""The teacher's hidden states along labelled answers, computed once and kept on disk.

    nice -n 19 python -m training.features --shards FOLDER [--aux 6,16,29] [--dialogues N]

A feature head reads what the teacher has computed already, so its training never needs the
teacher again. Three files make a shard NAME of at most `PER_SHARD` dialogues, in a random order but
the held-out ones first: `NAME.hidden.npy` [tokens, layers, width] float16, the states after the
layers that `--aux` counts (as the "speculators" format does: 2 is after two layers); then
`NAME.final.npy` [answer tokens, width] float16, the states after the final norm from which each
answer token was drawn; last `NAME.npz`, the dialogues as in `corpus.py`, which says that all are
complete. Whoever stops it may start it again: shards that are there are not made anew.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.corpus import (
    Dialogue,
    answer_positions,
    by_length,
    pad,
    read_shard,
    read_shards,
    write_shard,
)
from training.llama import Llama
from training.teacher import HOME, add_teacher_argument, attention_dtype, set_up, teacher_folder

PER_SHARD = 128
BATCH_TOKENS = 1600
AUX = "6,16,29"
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Watched(Dialogue):
    """A dialogue with what the teacher computed along it."""

    hidden: npt.NDArray[np.float16]  # (tokens, layers, width)
    final: npt.NDArray[np.float16]  # (answer tokens, width)


def states(teacher: Llama, ids: Tensor, aux: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the states after `aux` layers (rows, time, layers, width), and after the norm."""
    angles = teacher.angles(torch.arange(ids.shape[1])[None])
    x = teacher.embedding[ids]
    after = {0: x}
    for count, layer in enumerate(teacher.layers, start=1):
        x = layer(x, angles)
        after[count] = x
    return torch.stack([after[count] for count in aux], dim=2), teacher.norm(x)


@torch.no_grad()
def watch(teacher: Llama, dialogues: Sequence[Dialogue], aux: Sequence[int]) -> list[Watched]:
    """Run the teacher over dialogues."""
    watched = []
    for chosen in by_length(dialogues, BATCH_TOKENS):
        predicts = answer_positions(chosen)
        hidden, final = states(teacher, pad([d.ids for d in chosen]), aux)
        hidden = hidden.clamp(-LARGEST, LARGEST).half()  # a first token's may be huge
        for row, dialogue in enumerate(chosen):
            known = {one.name: getattr(dialogue, one.name) for one in fields(Dialogue)}
            watched.append(
                Watched(
                    **known,
                    hidden=hidden[row, : len(dialogue.ids)].numpy(),
                    final=final[row, predicts[row]].half().numpy(),
                )
            )
    return watched


def write_features(path: Path, watched: Sequence[Watched]) -> None:
    """Write one shard, the file that completes it last."""
    for kind in ("hidden", "final"):
        rows = np.concatenate([getattr(one, kind) for one in watched])
        partial = path.with_suffix(f".{kind}.partial")
        with partial.open("wb") as file:
            np.save(file, rows)
        os.replace(partial, path.with_suffix(f".{kind}.npy"))
    write_shard(path, watched)


def read_features(path: Path) -> Iterator[Watched]:
    """Yield the dialogues of one shard; their states stay on disk until they are used."""
    hidden = np.load(path.with_suffix(".hidden.npy"), mmap_mode="r")
    final = np.load(path.with_suffix(".final.npy"), mmap_mode="r")
    token = answer = 0
    for dialogue in read_shard(path):
        next_token = token + len(dialogue.ids)
        next_answer = answer + len(dialogue.top_ids)
        known = {one.name: getattr(dialogue, one.name) for one in fields(Dialogue)}
        yield Watched(**known, hidden=hidden[token:next_token], final=final[answer:next_answer])
        token, answer = next_token, next_answer


def in_order(dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
    """Cut into the dialogues of each shard: a random order, the held-out ones first."""
    shuffled = [dialogues[i] for i in np.random.default_rng(seed).permutation(len(dialogues))]
    shuffled.sort(key=lambda dialogue: not dialogue.held_out)
    return [shuffled[i : i + PER_SHARD] for i in range(0, len(shuffled), PER_SHARD)]


def alike(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Give all of them as many labels as the one with the fewest, so that a shard can hold them."""
    k = min(dialogue.top_ids.shape[1] for dialogue in dialogues)
    return [
        replace(one, top_ids=one.top_ids[:, :k], top_logprobs=one.top_logprobs[:, :k])
        for one in dialogues
    ]


def parse_aux(text: str) -> tuple[int, ...]:
    """Read "6,16,29"."""
    return tuple(int(count) for count in text.split(","))


def main() -> None:
    """Write the features of all labelled answers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shards", type=Path, default=HOME / "shards")
    parser.add_argument("--output", type=Path, default=HOME / "features")
    parser.add_argument("--aux", type=parse_aux, default=parse_aux(AUX))
    parser.add_argument("--threads", type=int, default=2)
    add_teacher_argument(parser)
    options = parser.parse_args()
    set_up(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    teacher = Llama.read(teacher_folder(options.teacher))
    teacher.attend_in(attention_dtype())
    began, tokens = time.monotonic(), 0
    for index, dialogues in enumerate(in_order(alike(read_shards(options.shards)), seed=0)):
        path = options.output / f"{index:04d}.npz"
        if path.exists():
            continue
        write_features(path, watch(teacher, dialogues, options.aux))
        tokens += sum(len(dialogue.ids) for dialogue in dialogues)
        print(f"{path.name}: {tokens / (time.monotonic() - began):.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
