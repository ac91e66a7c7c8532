"""Runs for tests: a whole one made by the engine in milliseconds, and arbitrary ones by Hypothesis.

The engine, the acceptance rule and the tokenizer are the real ones; only the language model is a
hash of the last tokens, which stands for weights nobody wants to load in a test of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from specdec.acceptance import Draft
from specdec.drafters.base import Drafter, DrafterRun
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.metrics import Baseline, Block, Totals, WideCall
from specdec.models.tokenizer import Tokenizer
from specdec.records import (
    Event,
    FinishReason,
    RoundResult,
    TokenRecord,
    TokenStatus,
    TopToken,
)
from specdec.runs.recorder import RunRecorder
from specdec.runs.run import ModelInfo, Run
from specdec.sampling import Distribution, Sampler, sample
from specdec.settings import RunConfig
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores
from tests.models.tiny import write_tiny_tokenizer

VOCAB_SIZE = 300
PROMPT = "the <b>tin</b> & the ant"


def hashed_logits(context: Sequence[int], noise: float = 0.0) -> np.ndarray:
    """Return logits [VOCAB_SIZE] that depend on the last two tokens; `noise` blurs them."""
    rng = np.random.default_rng(list(context[-2:]))
    logits = rng.normal(0.0, 2.0, VOCAB_SIZE)
    return (logits + noise * rng.normal(0.0, 1.0, VOCAB_SIZE)).astype(np.float32)


class HashedTarget:
    """Target and its run in one: it keeps no state."""

    name, backend, vocab_size, context_length = "hashed", "portable", VOCAB_SIZE, 1 << 14
    link_is_emulated = False

    def exactness_for(self, sampler):
        return Exactness()

    read_hidden = None

    def cannot_give(self, wanted):
        return "A hash has no layers." if wanted else None

    def start(self, prompt, wanted=LOGITS_ONLY):
        return self

    def score(self, context, draft):
        rows = [hashed_logits(context)]
        for node in range(len(draft)):
            rows.append(hashed_logits([*context, *draft.tokens_to(node)]))
        return Scores(rows)

    def close(self):
        pass


class BlurredDrafter(Drafter, DrafterRun):
    """Drafts from the target's logits plus noise, so that some tokens are rejected."""

    name = "blurred"

    def __init__(self, vocab_size: int = VOCAB_SIZE) -> None:
        self._num_padding = vocab_size - VOCAB_SIZE

    def start(self, prompt):
        return self

    def propose(self, context, budget, sampler, rng, hidden=None):
        ids, drawn_from = [], []
        for _ in range(budget.depth):
            logits = hashed_logits([*context, *ids], 1.0)
            padded = np.pad(logits, (0, self._num_padding), constant_values=-np.inf)
            row = Distribution.from_logits(padded, sampler)
            ids.append(sample(row.probs, rng))
            drawn_from.append(row)
        return Draft.chain(ids, drawn_from)


@dataclass(frozen=True)
class TinyPair:
    tokenizer: Tokenizer
    target: HashedTarget
    drafter: BlurredDrafter | NoDrafter
    digests: Mapping[str, str] = field(default_factory=lambda: {"hashed": "0" * 64})


def tiny_pair(folder: Path) -> TinyPair:
    if not (folder / "tokenizer.json").exists():
        write_tiny_tokenizer(folder, vocab_size=VOCAB_SIZE)
    return TinyPair(Tokenizer.load(folder), HashedTarget(), BlurredDrafter())


def tiny_events(folder: Path, *, seed: int, num_tokens: int, k: int = 3):
    """Return a pair and all events of one run of it."""
    pair = tiny_pair(folder)
    settings = RoundSettings(pair.drafter, k, Sampler(1.0))
    prompt = pair.tokenizer.encode(PROMPT)
    return pair, list(generate(prompt, pair.target, settings, max_tokens=num_tokens, seed=seed))


def record(pair: TinyPair, events: Sequence[Event], **config) -> RunRecorder:
    """Return a recorder that has seen `events`."""
    asked = RunConfig(target="hashed", draft="blurred", **config)
    recorder = RunRecorder.start(asked, PROMPT, pair.tokenizer.encode(PROMPT), pair)
    for event in events:
        recorder.add(event)
    return recorder


def tiny_run(folder: Path, *, seed: int = 0, num_tokens: int = 24, k: int = 3) -> Run:
    """Return one finished run."""
    pair, events = tiny_events(folder, seed=seed, num_tokens=num_tokens, k=k)
    return record(pair, events, seed=seed, num_draft_tokens=k, temperature=1.0).run()


# -- arbitrary runs ------------------------------------------------------------------------------

ids = st.integers(0, 2**31 - 1)
seconds = st.floats(0, 1e6)
chances = st.none() | st.floats(0, 1)
logprobs = st.none() | st.floats(max_value=0.0, allow_nan=False)
entropies = st.none() | st.floats(0, 20)
words = st.text(max_size=12)
plain_words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)

top_tokens = st.builds(TopToken, ids, chances, chances, logprobs, logprobs)


def token_records(parent: int, position: int, statuses: Sequence[TokenStatus]):
    return st.builds(
        TokenRecord,
        token_id=ids,
        parent=st.just(parent),
        position=st.just(position),
        status=st.sampled_from(statuses),
        draft_prob=chances,
        target_prob=chances,
        draft_logprob=logprobs,
        target_logprob=logprobs,
        acceptance_prob=chances,
        uniform=chances,
        expected_acceptance=chances,
        draft_entropy=entropies,
        target_entropy=entropies,
        top_tokens=st.lists(top_tokens, max_size=2).map(tuple),
    )


def _times(kind: type) -> list[str]:
    return [f.name for f in fields(kind) if f.name.endswith("_s")]


@st.composite
def round_results(draw: st.DrawFn, number: int, position: int) -> RoundResult:
    """Draw a round with any tree, any path through it, and a final token or none."""
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(0, 3)))]
    depths = Draft(tuple(range(len(parents))), tuple(parents), (None,) * len(parents)).depths
    path: list[int] = []
    while children := [n for n, p in enumerate(parents) if p == (path[-1] if path else -1)]:
        if not draw(st.booleans()):
            break
        path.append(draw(st.sampled_from(children)))
    failed = (TokenStatus.REJECTED, TokenStatus.DISCARDED)
    candidates = tuple(
        draw(
            token_records(
                parent,
                position + depths[node],
                (TokenStatus.ACCEPTED,) if node in path else failed,
            )
        )
        for node, parent in enumerate(parents)
    )
    ended = (TokenStatus.RESAMPLED, TokenStatus.BONUS)
    end = token_records(path[-1] if path else -1, position + len(path), ended)
    final = draw(st.none() | end)
    written = [candidates[node] for node in path] + ([] if final is None else [final])
    return RoundResult(
        round=number,
        position=position,
        candidates=candidates,
        final=final,
        emitted=tuple(one.token_id for one in written)[: draw(st.integers(0, len(written)))],
        num_draft_tokens=draw(st.integers(0, 16)),
        temperature=draw(st.floats(0, 2)),
        drafter=draw(words),
        **draw(st.fixed_dictionaries(dict.fromkeys(_times(RoundResult), seconds))),
    )


configs = st.builds(
    RunConfig,
    target=words,
    draft=words,
    num_draft_tokens=st.integers(0, 16),
    temperature=st.just(0.0) | st.floats(0.01, 2),
    top_p=st.floats(0.1, 1.0),
    max_tokens=st.integers(1, 8192),
    seed=st.integers(0, 2**63 - 1),
    rtt_ms=st.floats(0, 1e4),
)
_calls = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=4).map(tuple)
_wide = st.lists(st.builds(WideCall, st.integers(1, 64), st.floats(1e-6, 1e3)), max_size=3)
_blocks = st.builds(
    lambda calls_s, wide: Block(calls_s, tuple(s / 4 for s in calls_s), tuple(wide)), _calls, _wide
)
baselines = st.builds(Baseline, st.integers(1, 99), st.floats(1e-3, 1e6), st.just(0.0)) | st.builds(
    lambda blocks, company: Baseline.of_blocks(*blocks, had_company=company),
    st.lists(_blocks, min_size=1, max_size=2),
    st.booleans(),
)
models = st.builds(ModelInfo, words, st.none() | words)
times = st.datetimes().map(lambda time: time.isoformat(timespec="microseconds") + "+00:00")


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Draw any run that could be recorded: arbitrary numbers and texts, sound structure."""
    rounds: list[RoundResult] = []
    for number in range(draw(st.integers(0, 3))):
        rounds.append(draw(round_results(number, sum(len(r.emitted) for r in rounds))))
    finish = draw(st.sampled_from(FinishReason))
    prompt_ids = tuple(draw(st.lists(ids, max_size=5)))
    summary = Totals(rounds).summary(
        num_prompt_tokens=len(prompt_ids),
        prefill_s=draw(seconds),
        finish_reason=finish,
        error=draw(words) if finish is FinishReason.ERROR else None,
    )
    shown = [one for r in rounds for one in (*r.candidates, *([r.final] if r.final else []))]
    token_ids = {i for one in shown for i in (one.token_id, *(t.token_id for t in one.top_tokens))}
    return Run(
        config=draw(configs),
        prompt=draw(words),
        prompt_ids=prompt_ids,
        target=draw(models),
        draft=draw(models),
        backend=draw(words),
        exactness=draw(words),
        link_is_emulated=draw(st.booleans()),
        environment=draw(st.dictionaries(words, words, max_size=3)),
        started_at=draw(times),
        rounds=tuple(rounds),
        pieces=tuple(draw(words) for _ in range(summary.num_tokens)),
        token_texts={i: draw(words) for i in sorted(token_ids)},
        summary=summary,
        baseline=draw(st.none() | baselines),
        title=draw(plain_words),
        note=draw(plain_words),
        tags=tuple(draw(st.lists(plain_words, max_size=3))),
    )
