"""What the draft learns from: the teacher's top tokens and the token that was in fact sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from training.corpus import Batch

ACCEPTANCE_TEMPERATURES = (1.0, 0.7)


class Head:
    """The reduced output vocabulary: its token ids, their embedding rows, and the way back."""

    def __init__(self, ids: Tensor, embedding: Tensor) -> None:
        self.ids = ids
        self.rows = embedding[ids].contiguous()
        self.row_of = torch.full((len(embedding),), -1)
        self.row_of[ids] = torch.arange(len(ids))


def tempered(top_logprobs: Tensor, temperature: float) -> Tensor:
    """Probabilities of the top tokens at another temperature.

    The tail's share of the new normaliser is unknown; it is taken as if its mass lay on tokens a
    third as likely as the last one kept, which matters little below temperature 1.
    """
    if temperature == 1.0:
        return top_logprobs.exp()
    rest = (1 - top_logprobs.exp().sum(-1, keepdim=True)).clamp(min=0)
    typical = top_logprobs[:, -1:].exp() / 3
    tail = rest * typical ** (1 / temperature - 1)
    powers = (top_logprobs / temperature).exp()
    return powers / (powers.sum(-1, keepdim=True) + tail)


def loss(logits: Tensor, batch: Batch, head: Head, overlap_weight: float) -> Tensor:
    """Mix the cross-entropy to the teacher with -log Σ min(p, q) over its top tokens.

    Cross-entropy: the top tokens count by their probability; where the sampled token lies outside
    them, it stands for the tail (at temperature 1 an unbiased estimate of it).
    The gradient of -log Σ min(p, q) is that of the total variation divided by the acceptance.
    """
    rows = head.row_of[batch.top_ids]
    known, rows = rows >= 0, rows.clamp(min=0)
    log_q = logits.log_softmax(-1)
    entropy = -(batch.top_logprobs.exp() * known * log_q.gather(-1, rows)).sum(-1)
    sampled = head.row_of[batch.next_ids]
    outside = (batch.top_ids != batch.next_ids[:, None]).all(-1) & (sampled >= 0)
    entropy = entropy - outside * log_q.gather(-1, sampled.clamp(min=0)[:, None])[:, 0]
    if overlap_weight == 0:
        return entropy.mean()
    missed = []
    for temperature in ACCEPTANCE_TEMPERATURES:
        p = tempered(batch.top_logprobs, temperature) * known
        tempered_q = log_q if temperature == 1.0 else (logits / temperature).log_softmax(-1)
        overlap = torch.minimum(p, tempered_q.gather(-1, rows).exp()).sum(-1)
        missed.append(-(overlap + 1e-3).log().mean())
    return (1 - overlap_weight) * entropy.mean() + overlap_weight * torch.stack(missed).mean()
