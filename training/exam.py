"""First-position acceptance on held-out answers, exact over the teacher's full vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.corpus import Dialogue, answer_positions, by_length, pad
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
