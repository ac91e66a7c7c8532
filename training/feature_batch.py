"""Batches for a feature head: whole rows to read, and the places that are learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.corpus import answer_positions, pad
from training.feature_head import Places
from training.features import Watched
from training.objective import Head


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Right-padded rows with the teacher's states, and what each step is to predict.

    `answers[k]` are, for the places of step k, the rows of `final` that predicted the same token.
    """

    ids: Tensor  # (rows, time)
    hidden: Tensor  # (rows, time, aux · width) fp32
    final: Tensor  # (answer tokens, width) fp32, after the teacher's final norm
    outside: Tensor  # (answer tokens, k) log-probabilities of top tokens that the head lacks
    log_sum: Tensor  # (answer tokens,) over the teacher's full vocabulary
    places: list[Places]
    answers: list[Tensor]


def lay_out(
    predicts: Tensor, depth: int, stride: int, offset: int
) -> tuple[list[Places], list[Tensor]]:
    """Say where each step stands and which answer token's law it is to find.

    Place j of a row predicts what the teacher predicts at j + 1, so that step k of the chain begun
    at j predicts at j + 1 + k. All answer tokens are learnt by the first step; chains go on from
    every `stride`-th place, to save time: those whose number in the batch is `offset` plus a
    multiple.
    """
    number = torch.full(predicts.shape, -1)
    number[predicts] = torch.arange(int(predicts.sum()))
    rows, times = (number[:, 1:] >= 0).nonzero(as_tuple=True)
    places = [Places(rows, times, torch.arange(len(rows)))]
    answers = [number[rows, times + 1]]
    follows = torch.arange(offset, len(rows), stride)
    for step in range(1, depth):
        rows, times = places[0].rows[follows], places[0].times[follows]
        target = torch.full(rows.shape, -1)
        inside = times + 1 + step < number.shape[1]
        target[inside] = number[rows[inside], times[inside] + 1 + step]
        goes_on = target >= 0
        before = follows
        follows = follows[goes_on]
        # The second step follows places of the first, each later one those of `before`.
        index = torch.arange(len(before))[goes_on] if step > 1 else follows
        places.append(Places(rows[goes_on], times[goes_on], index))
        answers.append(target[goes_on])
    return places, answers


def collate_features(
    chosen: Sequence[Watched], head: Head, depth: int, stride: int, offset: int
) -> FeatureBatch:
    """Make one batch of dialogues, best of similar lengths."""
    ids, predicts = pad([one.ids for one in chosen]), answer_positions(chosen)
    hidden = torch.zeros(*ids.shape, chosen[0].hidden.shape[1] * chosen[0].hidden.shape[2])
    for row, one in zip(hidden, chosen, strict=True):
        states = torch.from_numpy(np.array(one.hidden, np.float32))
        row[: len(one.ids)] = states.flatten(1)
    final = torch.from_numpy(np.concatenate([one.final for one in chosen]).astype(np.float32))
    top_ids = torch.from_numpy(np.concatenate([one.top_ids for one in chosen]).astype(np.int64))
    top = torch.from_numpy(np.concatenate([one.top_logprobs for one in chosen]).astype(np.float32))
    likeliest = (final * head.embedding[top_ids[:, 0]]).sum(-1)
    places, answers = lay_out(predicts, depth, stride, offset)
    return FeatureBatch(
        ids=ids,
        hidden=hidden,
        final=final,
        outside=top.masked_fill(head.row_of[top_ids] >= 0, -torch.inf),
        log_sum=likeliest - top[:, 0],
        places=places,
        answers=answers,
    )
