"""Acceptance on held-out answers, exact over the teacher's full vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.corpus import Dialogue, answer_positions, by_length, pad
from training.feature_batch import FeatureBatch, collate_features
from training.feature_head import FeatureHead
from training.features import Watched
from training.llama import Llama
from training.objective import Head

TEMPERATURES = (1.0, 0.7)
BATCH_TOKENS = 1600


@dataclass(frozen=True, slots=True)
class Question:
    """A batch of held-out answers with the teacher's states, from which its logits follow."""

    ids: Tensor  # (rows, time)
    predicts: Tensor  # (rows, time) bool
    hidden: Tensor  # (positions, width)
    log_sums: Tensor  # (positions, temperatures), over the full vocabulary
    best: Tensor  # (positions,) the teacher's greedy choice
    temperature: Tensor  # (positions,) at which the answer was sampled


@torch.no_grad()
def prepare(teacher: Llama, dialogues: Sequence[Dialogue]) -> list[Question]:
    """Run the teacher over held-out dialogues, once."""
    questions = []
    for chosen in by_length(dialogues, BATCH_TOKENS):
        ids, predicts = pad([dialogue.ids for dialogue in chosen]), answer_positions(chosen)
        hidden = teacher(ids)[predicts]
        logits = hidden @ teacher.embedding.T
        sums = torch.stack([(logits / t).logsumexp(-1) for t in TEMPERATURES], dim=-1)
        temperature = torch.tensor([d.temperature for d in chosen]).repeat_interleave(
            predicts.sum(-1)
        )
        questions.append(Question(ids, predicts, hidden, sums, logits.argmax(-1), temperature))
    return questions


def overlap(teacher: Tensor, log_sum: Tensor, draft: Tensor, temperature: float) -> Tensor:
    """Σ min(p, q) per position: p over the teacher's full vocabulary, q over the head rows."""
    p = (teacher / temperature - log_sum[:, None]).exp()
    return torch.minimum(p, (draft / temperature).softmax(-1)).sum(-1)


@torch.no_grad()
def examine(draft: Llama, questions: Sequence[Question], head: Head) -> dict[str, float]:
    """Measure acceptance over all answers and over those sampled alike.

    `all_1.0` is Σ min(p, q) at temperature 1 on every held-out answer, `own_1.0` only on answers
    sampled at temperature 1, and so on; at 0.0 the argmax over the head is compared with the
    teacher's over its full vocabulary.
    """
    columns: dict[float, list[Tensor]] = {t: [] for t in (*TEMPERATURES, 0.0)}
    for question in questions:
        student = draft(question.ids)[question.predicts] @ head.rows.T
        teacher = question.hidden @ head.rows.T
        for index, t in enumerate(TEMPERATURES):
            columns[t].append(overlap(teacher, question.log_sums[:, index], student, t))
        columns[0.0].append((head.ids[student.argmax(-1)] == question.best).float())
    sampled_at = torch.cat([question.temperature for question in questions])
    figures = {}
    for temperature, values in columns.items():
        value = torch.cat(values)
        own = (sampled_at - temperature).abs() < 0.01
        figures[f"all_{temperature}"] = round(value.mean().item(), 4)
        figures[f"own_{temperature}"] = round(value[own].mean().item(), 4)
    return figures


@dataclass(frozen=True, slots=True)
class FeatureQuestion:
    """A batch of held-out answers with the teacher's states, for a feature head."""

    batch: FeatureBatch
    log_sums: Tensor  # (answer tokens, temperatures), over the full vocabulary
    best: Tensor  # (answer tokens,) the teacher's greedy choice


@torch.no_grad()
def prepare_features(dialogues: Sequence[Watched], head: Head, depth: int) -> list[FeatureQuestion]:
    """Take the teacher's full distributions along held-out dialogues, once."""
    questions = []
    for chosen in by_length(dialogues, BATCH_TOKENS):
        batch = collate_features(chosen, head, depth, stride=1, offset=0)
        logits = batch.final @ head.embedding.T
        sums = torch.stack([(logits / t).logsumexp(-1) for t in TEMPERATURES], dim=-1)
        questions.append(FeatureQuestion(batch, sums, logits.argmax(-1)))
    return questions


@torch.no_grad()
def examine_feature(
    feature_head: FeatureHead, questions: Sequence[FeatureQuestion], head: Head
) -> dict[str, list[float]]:
    """Measure acceptance position by position, as `examine` does for the first alone.

    A position's draft stands behind the answer's own tokens, and on features that are the
    teacher's up to the position before the first.
    """
    columns: dict[float, list[list[Tensor]]] = {t: [] for t in (*TEMPERATURES, 0.0)}
    for question in questions:
        batch = question.batch
        outputs = feature_head(head.embedding[batch.ids], batch.hidden, batch.places)
        laws = batch.final @ head.rows.T
        for column in columns.values():
            column += [[] for _ in range(len(outputs) - len(column))]
        for step, (output, answers) in enumerate(zip(outputs, batch.answers, strict=True)):
            if not len(answers):  # no answer here is so long
                continue
            student = output @ head.rows.T
            for index, t in enumerate(TEMPERATURES):
                found = overlap(laws[answers], question.log_sums[answers, index], student, t)
                columns[t][step].append(found)
            best = head.ids[student.argmax(-1)] == question.best[answers]
            columns[0.0][step].append(best.float())
    return {
        f"all_{temperature}": [round(torch.cat(each).mean().item(), 4) for each in steps if each]
        for temperature, steps in columns.items()
    }
