"""What a draft learns from: the teacher's top tokens and the token that was in fact sampled.

A feature head learns from the teacher's whole distribution, which follows from its last states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.corpus import Batch

ACCEPTANCE_TEMPERATURES = (1.0, 0.7)


class Head:
    """The reduced output vocabulary: its token ids, their embedding rows, and the way back."""

    def __init__(self, ids: Tensor, embedding: Tensor) -> None:
        self.ids = ids
        self.embedding = embedding
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


def tempered_laws(logits: Tensor, log_sum: Tensor, outside: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities of the head's tokens [places, rows], at a temperature.

    Args:
        logits: the teacher's, of the head's rows [places, rows]; overwritten.
        log_sum: over the full vocabulary, at temperature 1.
        outside: log-probabilities of the likeliest tokens that the head lacks [places, k]; the
            rest of what it lacks is taken for nothing where the temperature is not 1.
        temperature: above 0.
    """
    probs = logits.sub_(log_sum[:, None]).div_(temperature).exp_()
    if temperature == 1.0:
        return probs
    return probs.div_((probs.sum(-1) + (outside / temperature).exp().sum(-1))[:, None])


class Mismatch(torch.autograd.Function):
    """Summed over places, (1 − w) · cross-entropy to the teacher + w · −log Σ min(p, q).

    Written out, so that head, softmax and gradient need each row once and nothing as wide as the
    head is kept: with S = Σ min(p, q), the gradient in the logits is
    (1 − w) · (P q − p) − w · q (1[q < p] − Σ q 1[q < p]) / S, where P = Σ p.
    """

    ROWS = 128  # at a time, so that they stay in the processor's cache

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Take outputs (places, width), head rows (v, width), laws p of the cross-entropy and of
        the overlap (answers, v), the answers of the places, the overlap's temperature, and w."""
        outputs, rows, laws, cool_laws, answers, temperature, weight = given
        total = 0.0
        gradient = torch.empty_like(outputs)
        for at in range(0, len(outputs), Mismatch.ROWS):
            part = slice(at, at + Mismatch.ROWS)
            logits = outputs[part] @ rows.T
            p = laws[answers[part]]
            log_q = logits.log_softmax(-1)
            total -= (1 - weight) * float((p * log_q).sum())
            slope = log_q.exp_().mul_(p.sum(-1, keepdim=True)).sub_(p).mul_(1 - weight)
            if weight:
                p = cool_laws[answers[part]]
                q = logits.div_(temperature).softmax(-1)
                overlap = torch.minimum(p, q).sum(-1, keepdim=True).add_(1e-3)
                total -= weight * float(overlap.log().sum())
                below = q * (q < p)
                inside = below.sum(-1, keepdim=True)
                below.sub_(q.mul_(inside)).mul_(weight / temperature).div_(overlap)
                slope.sub_(below)
            gradient[part] = slope @ rows
        ctx.save_for_backward(gradient)
        return outputs.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Hand on the gradient in the outputs."""
        (gradient,) = ctx.saved_tensors
        return slopes[0] * gradient, None, None, None, None, None, None
