"""Block verification: a second way to walk a chain, which accepts at least as much of it.

Sun et al. 2024 (https://arxiv.org/abs/2403.10444). The rule of `specdec.acceptance` tests a token
by itself: where the target likes one *more* than the draft did, that is of no use to the others.
Here it is. Let x_1 … x_K be the chain, each x_i drawn from q_i; p_i is the target's distribution
there, and k_i the chance that the first i tokens are kept, given what they are:

    k_0 = 1,   k_i = min(1, k_{i−1} · p_i(x_i) / q_i(x_i))
    Z_i = Σ_x max(0, k_i · p_{i+1}(x) − q_{i+1}(x)),   h_i = Z_i / (Z_i + 1 − k_i),   h_K = k_K

The paper draws u_1 … u_K and keeps the first τ tokens, where τ is the largest i with u_i < h_i (0
where there is none). One more token is drawn, from p_{K+1} if τ = K, otherwise from
max(0, k_τ · p_{τ+1} − q_{τ+1}) made to sum to 1.

Why it keeps the law. P(τ ≥ i | x_1 … x_i) = k_i, by induction from the end: further tokens are kept
with chance S = Σ_x min(q_{i+1}, k_i · p_{i+1})(x) = k_i − Z_i, and together with i tokens alone
that makes S + (1 − S) · h_i = S + Z_i = k_i. So y_1 … y_{i+1} are all drafted and kept with
probability q_1 ⋯ q_i · min(q_{i+1}, k_i · p_{i+1}), and the last one comes from the last draw with
q_1 ⋯ q_i · max(0, k_i · p_{i+1} − q_{i+1}): together as often as y_1 … y_i are kept, times p_{i+1}.

The same τ, token by token. Given the whole chain, τ ≥ i has the chance c_i = h_i + (1 − h_i) ·
c_{i+1}, so a token whose predecessor was kept is kept with chance c_i / c_{i−1}: one uniform for
each token up to the first that fails, as in the other rule, and every record shows what decided.
And as k_i · p − q = k_i · (p − q / k_i), the formulae are those of the other rule with
q_{i+1} / k_i, the *raised* draft, in place of q_{i+1}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from specdec.acceptance import Draft, Test, Verdict, overlap, residual, verify
from specdec.errors import SettingsError
from specdec.records import TokenStatus
from specdec.sampling import FloatArray, sample

_NEVER = 1e-30
"""A chance that no run will see; to raise a draft by its inverse would leave the range of float32.
"""

Rule = Callable[[Draft, Sequence[FloatArray | None], np.random.Generator], Verdict]
"""Decides about a draft, given the target's rows; see `specdec.acceptance.verify`."""


def verify_block(
    draft: Draft, target_probs: Sequence[FloatArray | None], rng: np.random.Generator
) -> Verdict:
    """Decide how much of a chain the target takes, all its tokens considered together.

    The emitted tokens follow the target's distribution exactly, and the expected number of
    accepted ones is at least that of `verify`; no rule for a single chain accepts more.

    `verify` decides in its place where `draft` is no chain, or where any of its tokens was not
    drawn but chosen (of point masses alone, blocks accept no more: k_i is the product of the
    p_i(x_i)). For a draft of one token or none the two rules are the same.

    In each test, `acceptance_prob` is the chance c_i / c_{i−1} that the token is kept given the
    whole chain and that its predecessor was kept: it is not min(1, p / q), and depends on the
    tokens that follow. `uniform` is what was drawn against it, as in `verify`, and so are
    the statuses: one rejected token at most, those behind it discarded. `target_prob` is p_i(x_i).
    `expected_acceptance` is Σ min(p_i, q_i / k_{i−1}), the chance that any token drawn there is
    kept, given those before it, so that observed acceptance must follow it here too.

    Args:
        draft: the chain.
        target_probs: one row [vocab_size] per context: row 0 after the committed tokens, row
            i + 1 after node i. None where the target could not score: the chain ends there, and
            if all of it is kept, no token is drawn.
        rng: source of the uniforms and of the final token.
    """
    if not draft.is_chain or None in draft.distributions:
        return verify(draft, target_probs, rng)
    steps, kept = _raised_steps(draft, target_probs)
    chances = _chances(steps, kept)
    tests = [Test(TokenStatus.DISCARDED)] * len(draft)
    for node, (row, raised) in enumerate(steps):
        token_id = draft.token_ids[node]
        acceptance_prob = min(1.0, chances[node + 1] / chances[node])
        uniform = float(rng.random())
        taken = uniform < acceptance_prob
        status = TokenStatus.ACCEPTED if taken else TokenStatus.REJECTED
        expected = overlap(row, raised)
        tests[node] = Test(status, acceptance_prob, uniform, float(row[token_id]), expected)
        if not taken:
            left = residual(row, token_id, raised)
            token = sample(left, rng)
            return Verdict(tuple(range(node)), tuple(tests), token, TokenStatus.RESAMPLED, left)
    path, last = tuple(range(len(steps))), target_probs[len(steps)]
    final = None if last is None else sample(last, rng)
    return Verdict(path, tuple(tests), final, TokenStatus.BONUS, last)


def _raised_steps(
    draft: Draft, target_probs: Sequence[FloatArray | None]
) -> tuple[list[tuple[FloatArray, FloatArray]], list[float]]:
    """Return p_i and q_i / k_{i−1} [vocab_size] of each token, and k_0 … k_n.

    They end where the target has no row, and with a token that cannot be kept: it fails for sure.
    """
    steps: list[tuple[FloatArray, FloatArray]] = []
    kept = [1.0]
    for node, token_id in enumerate(draft.token_ids):
        row, draft_probs = target_probs[node], draft.draft_probs(node)
        assert draft_probs is not None
        if row is None or kept[-1] == 0.0:
            break
        raised = draft_probs / draft_probs.dtype.type(kept[-1])
        steps.append((row, raised))
        chance = min(1.0, float(row[token_id]) / float(raised[token_id]))
        kept.append(chance if chance > _NEVER else 0.0)
    return steps, kept


def _chances(steps: Sequence[tuple[FloatArray, FloatArray]], kept: Sequence[float]) -> list[float]:
    """Return c_0 … c_n, where c_0 = 1: the chance that i tokens or more are kept, given all."""
    chances = [kept[-1]]
    for k, (row, raised) in zip(kept[-2:0:-1], steps[:0:-1], strict=True):
        lacking = k * float(np.maximum(row - raised, 0.0).sum(dtype=np.float64))
        stays = lacking / (lacking + 1.0 - k) if k < 1.0 else 1.0
        chances.append(stays + (1.0 - stays) * chances[-1])
    return [1.0, *reversed(chances)]


TOKEN_RULE, BLOCK_RULE = "token", "block"
RULES: Mapping[str, Rule] = {TOKEN_RULE: verify, BLOCK_RULE: verify_block}
"""The rules by name, as rounds name theirs; both keep the law of the target."""


def find_rule(name: str) -> Rule:
    """Return the rule called `name`.

    Raises:
        SettingsError: there is none.
    """
    if name not in RULES:
        raise SettingsError(
            f"There is no rule {name!r}; choose one of {', '.join(RULES)}. Both keep the target's "
            "distribution; typical acceptance would change it, so it is not here."
        )
    return RULES[name]


def name_of(rule: Rule) -> str:
    """Return the name of a rule in `RULES`, that of the function where it is another one."""
    return next((name for name, one in RULES.items() if one is rule), rule.__name__)
