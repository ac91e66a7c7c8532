"""Dialogues on disk: token ids and the teacher's most likely next tokens along each answer.

A shard is an `.npz` with, for its dialogues laid end to end, `ids` (uint16), `offsets` (int64),
`response_start` (uint16), `temperature` (float16), and one row per answer token, the row that
predicts it: `top_ids` (uint16) and `top_logprobs` (float16), the teacher's few most likely tokens
and their natural log-probabilities at temperature 1.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HELD_OUT_ONE_IN = 40
PADDING_ID = 2


def is_held_out(prompt: npt.NDArray[np.uint16]) -> bool:
    """Set one prompt in forty aside, by its own token ids and thus in every run alike."""
    return zlib.crc32(prompt.astype("<u2").tobytes()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One prompt with one answer and the teacher's view of the answer."""

    ids: npt.NDArray[np.uint16]
    response_start: int
    temperature: float
    top_ids: npt.NDArray[np.uint16]
    top_logprobs: npt.NDArray[np.float16]

    @property
    def held_out(self) -> bool:
        """Tell by the prompt alone, so that all answers to a prompt fall on the same side."""
        return is_held_out(self.ids[: self.response_start])


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows and the answer positions picked out of them, flat over the batch."""

    ids: Tensor  # (rows, time) int64
    predicts: Tensor  # (rows, time) bool: this position's next token belongs to the answer
    next_ids: Tensor  # (positions,) the answer's own tokens
    top_ids: Tensor  # (positions, k) int64
    top_logprobs: Tensor  # (positions, k) fp32
    temperature: Tensor  # (positions,) the answer's own sampling temperature


Read = TypeVar("Read", bound=Dialogue)


def write_shard(path: Path, dialogues: Sequence[Dialogue]) -> None:
    """Write a shard whole or not at all."""
    lengths = [len(dialogue.ids) for dialogue in dialogues]
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            ids=np.concatenate([dialogue.ids for dialogue in dialogues]),
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            response_start=np.array([d.response_start for d in dialogues], np.uint16),
            temperature=np.array([d.temperature for d in dialogues], np.float16),
            top_ids=np.concatenate([dialogue.top_ids for dialogue in dialogues]),
            top_logprobs=np.concatenate([dialogue.top_logprobs for dialogue in dialogues]),
        )
    os.replace(partial, path)


def read_shard(path: Path) -> Iterator[Dialogue]:
    """Yield the dialogues of one shard."""
    with np.load(path) as shard:
        arrays = {name: shard[name] for name in shard.files}
    starts, stops = arrays["offsets"][:-1], arrays["offsets"][1:]
    edges = np.cumsum([0, *(stops - starts - arrays["response_start"])])
    for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        answer = slice(edges[index], edges[index + 1])
        yield Dialogue(
            ids=arrays["ids"][start:stop],
            response_start=int(arrays["response_start"][index]),
            temperature=float(arrays["temperature"][index]),
            top_ids=arrays["top_ids"][answer],
            top_logprobs=arrays["top_logprobs"][answer],
        )


def read_shards(folder: Path, names: Sequence[str] | None = None) -> list[Dialogue]:
    """Read the named shards of a folder, or all of them."""
    chosen = sorted(path.name for path in folder.glob("*.npz")) if names is None else names
    return [dialogue for name in chosen for dialogue in read_shard(folder / name)]


def pad(rows: Sequence[npt.NDArray[np.uint16]]) -> Tensor:
    """Stack token ids to (rows, longest), padded on the right."""
    padded = torch.full((len(rows), max(map(len, rows))), PADDING_ID)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return padded


def answer_positions(dialogues: Sequence[Dialogue]) -> Tensor:
    """Mark the (rows, time) positions whose next token belongs to the answer."""
    lengths = torch.tensor([len(dialogue.ids) for dialogue in dialogues])[:, None]
    starts = torch.tensor([dialogue.response_start for dialogue in dialogues])[:, None]
    time = torch.arange(int(lengths.max()))
    return (time >= starts - 1) & (time < lengths - 1)


def collate(dialogues: Sequence[Dialogue]) -> Batch:
    """Make one batch of dialogues, best of similar lengths; k is the smallest among them."""
    k = min(dialogue.top_ids.shape[1] for dialogue in dialogues)
    answers = [dialogue.ids[dialogue.response_start :] for dialogue in dialogues]
    top_ids = np.concatenate([dialogue.top_ids[:, :k] for dialogue in dialogues])
    top_logprobs = np.concatenate([dialogue.top_logprobs[:, :k] for dialogue in dialogues])
    return Batch(
        ids=pad([dialogue.ids for dialogue in dialogues]),
        predicts=answer_positions(dialogues),
        next_ids=torch.from_numpy(np.concatenate(answers).astype(np.int64)),
        top_ids=torch.from_numpy(top_ids.astype(np.int64)),
        top_logprobs=torch.from_numpy(top_logprobs.astype(np.float32)),
        temperature=torch.tensor([d.temperature for d in dialogues]).repeat_interleave(
            torch.tensor([len(answer) for answer in answers])
        ),
    )


def by_length(dialogues: Sequence[Read], tokens: int) -> list[list[Read]]:
    """Cut into batches of similar lengths, each of at most `tokens` with the padding."""
    batches: list[list[Read]] = [[]]
    for dialogue in sorted(dialogues, key=lambda dialogue: len(dialogue.ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(dialogue.ids) > tokens:
            batches.append([])
        batches[-1].append(dialogue)
    return batches
