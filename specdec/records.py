"""The values that cross every boundary: tokens, rounds and summaries.

Plain, frozen, and without identity: a round does not know where it is stored or drawn, and nothing
here holds an array (`specdec.acceptance.Draft`, which does, never leaves the engine).
Times are seconds of the engine's own work; time spent by whoever consumes the generator is not in
them. Everything that can be derived is a property.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenStatus(StrEnum):
    """How a token came to be, or did not; the glossary is in `specdec.acceptance`."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DISCARDED = "discarded"
    RESAMPLED = "resampled"
    BONUS = "bonus"


class FinishReason(StrEnum):
    """Why a run ended."""

    STOP = "stop"
    """The model wrote an end token."""
    LENGTH = "length"
    """The token limit or the end of the context was reached."""
    STOPPED = "stopped"
    """The consumer closed the generator."""
    ERROR = "error"
    """The target or the drafter failed; the tokens before that are kept."""


FIXED_POLICY = "fixed"
"""The name of the policy that leaves K as it is set."""


class LinkKind(StrEnum):
    """What is between the draft and the target of a run; the empty text where nothing is."""

    NONE = ""
    EMULATED = "emulated"
    """A real wait around every call, and no network."""
    MEASURED = "measured"
    """A network whose share of a call the server lets us tell."""


@dataclass(frozen=True, slots=True)
class TopToken:
    """One entry of the likeliest tokens at a position, by draft and by target.

    Probabilities are after temperature, top-k and top-p, as the rule tests them;
    log-probabilities are the models' own. None where a side gave none.
    """

    token_id: int
    draft_prob: float | None
    target_prob: float | None
    draft_logprob: float | None
    target_logprob: float | None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token, drafted or final, and everything that decided about it.

    Attributes:
        token_id: the token.
        parent: index of its parent among the round's candidates, −1 for the context.
        position: its place in the output, counted from 0.
        status: what became of it.
        draft_prob: probability it was drafted with; 1 for a point mass; None for final tokens.
        target_prob: probability it was tested against or drawn with; None before verification.
        draft_logprob: the draft's own log-probability (temperature 1, nats).
        target_logprob: the target's own log-probability (temperature 1, nats).
        acceptance_prob: min(1, target_prob / draft_prob); None if it was not tested.
        uniform: the number in [0, 1) drawn for its test; accepted if below acceptance_prob.
        expected_acceptance: Σ min(p, q) at its test: how likely any token drawn there is to pass.
        draft_entropy: entropy of the draft's distribution at its position (nats).
        target_entropy: entropy of the target's distribution at its position (nats).
        top_tokens: the union of both sides' likeliest tokens at its position.
        drafted_by: the member that proposed it, where the drafter has several; of a mixture the
            one that gave the token most of its probability.
    """

    token_id: int
    parent: int
    position: int
    status: TokenStatus
    draft_prob: float | None = None
    target_prob: float | None = None
    draft_logprob: float | None = None
    target_logprob: float | None = None
    acceptance_prob: float | None = None
    uniform: float | None = None
    expected_acceptance: float | None = None
    draft_entropy: float | None = None
    target_entropy: float | None = None
    top_tokens: tuple[TopToken, ...] = ()
    drafted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt has been read by the target and the drafter."""

    num_prompt_tokens: int
    prefill_s: float


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft is on its way to the target; its tokens are pending."""

    round: int
    candidates: tuple[TokenRecord, ...]
    started_s: float
    draft_s: float


@dataclass(frozen=True, slots=True)
class RoundSetting:
    """What a round ran with, of the things that may be set anew for each; see `RoundResult`."""

    num_draft_tokens: int | None
    temperature: float
    drafter: str
    top_k: int
    top_p: float
    policy: str
    rule: str


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round: what was drafted, what the target said, what was emitted, and what it cost.

    Attributes:
        round: counted from 0.
        position: output position of the round's first token.
        candidates: the drafted tokens, parents before children.
        final: the resampled or bonus token; None where the target could not score its position.
        emitted: token ids added to the output; fewer than accepted + 1 after an end token.
        num_draft_tokens: K as the policy decided it for this round (the draft may hold fewer).
        temperature: as set for this round.
        drafter: name of the drafting strategy of this round.
        started_s: start of the round, since the start of the run.
        draft_s: the drafter's forward passes or lookups.
        verify_s: the target's call, `link_s` included.
        link_s: the share of `verify_s` spent on the network (emulated or measured).
        retry_s: failed attempts before the call that succeeded; no part of `verify_s`.
        sample_s: making distributions, drawing and testing tokens.
        wall_s: the whole round.
        top_k: as set for this round.
        top_p: likewise.
        policy: name of what decided K.
        rule: name of the rule that decided about the draft, as in `specdec.block.RULES`.
        reason: why the policy moved K, in one sentence; empty where it did not.
        state_bytes: hidden states that came over the link for the drafter; `link_s` includes them.
        num_sequences: token sequences that the target scored the draft as: a tree's paths, or the
            prompts in a server's request, where they do not go through in one pass.
        reads_states: whether the drafter goes on from the target's hidden states.
        tree: shape that the drafter was given, as `RunConfig.tree` has it; empty for a chain.
    """

    round: int
    position: int
    candidates: tuple[TokenRecord, ...]
    final: TokenRecord | None
    emitted: tuple[int, ...]
    num_draft_tokens: int
    temperature: float
    drafter: str
    started_s: float
    draft_s: float
    verify_s: float
    link_s: float
    retry_s: float
    sample_s: float
    wall_s: float
    top_k: int = 0
    top_p: float = 1.0
    policy: str = FIXED_POLICY
    rule: str = "token"
    reason: str = ""
    state_bytes: int = 0
    num_sequences: int = 1
    reads_states: bool = False
    tree: str = ""

    @property
    def drafting(self) -> str:
        """The drafter by name, and the shape that it was given."""
        return f"{self.drafter} {self.tree}".rstrip()

    @property
    def num_drafted(self) -> int:
        """Drafted tokens sent to the target; for a tree, all its nodes."""
        return len(self.candidates)

    @property
    def depth(self) -> int:
        """The most drafted tokens that stand one after the other."""
        return max((c.position - self.position + 1 for c in self.candidates), default=0)

    @property
    def accepted(self) -> tuple[TokenRecord, ...]:
        """The accepted candidates, in output order."""
        return tuple(c for c in self.candidates if c.status is TokenStatus.ACCEPTED)

    @property
    def num_accepted(self) -> int:
        return len(self.accepted)

    @property
    def settings(self) -> RoundSetting:
        """What could have been set otherwise for this round; K where no policy moves it."""
        return RoundSetting(
            self.num_draft_tokens if self.policy == FIXED_POLICY else None,
            self.temperature,
            self.drafting,
            self.top_k,
            self.top_p,
            self.policy,
            self.rule,
        )

    @property
    def tokens(self) -> tuple[TokenRecord, ...]:
        """The records behind `emitted`, in output order."""
        path = self.accepted if self.final is None else (*self.accepted, self.final)
        return path[: len(self.emitted)]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The totals of a run; the names are those of vLLM's per-request metrics where it has them.

    Attributes:
        finish_reason: why the run ended; `error` then says what went wrong.
        num_prompt_tokens: length of the prompt, chat template included.
        num_tokens: emitted tokens, an end token included.
        num_spec_steps: rounds with a draft.
        num_target_calls: all rounds.
        num_draft_tokens: drafted tokens sent to the target.
        num_accepted_draft_tokens: those it accepted, counted at verification.
        acceptance_histogram: entry i is the number of drafted rounds that accepted i tokens.
        accepted_per_pos: entry i is how often the drafted token at position i was accepted.
        drafted_per_pos: entry i is how often a draft reached position i.
        prefill_s: reading the prompt.
        draft_s: the drafter's forward passes or lookups.
        verify_s: the target's calls, `link_s` included.
        link_s: the share spent on the network (emulated or measured).
        retry_s: failed attempts of the target's calls; no part of `verify_s`.
        sample_s: making distributions, drawing and testing tokens.
        wall_s: all of the engine's time.
        ttft_s: time to the first token.
    """

    finish_reason: FinishReason
    num_prompt_tokens: int
    num_tokens: int
    num_spec_steps: int
    num_target_calls: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    acceptance_histogram: tuple[int, ...]
    accepted_per_pos: tuple[int, ...]
    drafted_per_pos: tuple[int, ...]
    prefill_s: float
    draft_s: float
    verify_s: float
    link_s: float
    retry_s: float
    sample_s: float
    wall_s: float
    ttft_s: float | None
    error: str | None = None

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Accepted over verified drafted tokens; None when nothing was drafted."""
        if not self.num_draft_tokens:
            return None
        return self.num_accepted_draft_tokens / self.num_draft_tokens

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted tokens per drafted round: the bonus or resampled token counts."""
        if not self.num_spec_steps:
            return None
        return 1.0 + self.num_accepted_draft_tokens / self.num_spec_steps

    @property
    def per_position_acceptance(self) -> tuple[float, ...]:
        """The share of drafted rounds whose first i + 1 tokens were all accepted (vLLM's s_i)."""
        return tuple(accepted / self.num_spec_steps for accepted in self.accepted_per_pos)

    @property
    def tokens_per_target_call(self) -> float | None:
        return self.num_tokens / self.num_target_calls if self.num_target_calls else None

    @property
    def decode_s(self) -> float:
        """All of the engine's time but reading the prompt."""
        return self.wall_s - self.prefill_s

    @property
    def tokens_per_s(self) -> float | None:
        """Emitted tokens per second of decoding."""
        return per_second(self.num_tokens, self.decode_s)


def percent(share: float | None) -> str:
    """Return a share as it is told everywhere: with one decimal, a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.1f} %"


def per_second(count: int, seconds: float) -> float | None:
    """Return `count` / `seconds`, None for nothing or within less time than a clock can tell."""
    return count / seconds if count and seconds > 1e-9 else None


Event = Prefilled | Drafted | RoundResult | RunSummary
