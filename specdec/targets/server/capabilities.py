"""What a server can do for a verifier, and what follows for the law of the output.

The contract is computed from measured facts and the sampler in force, never assumed. From the raw
log-probabilities of a server's N likeliest tokens the distribution "top-k = N, then temperature,
then top-p" follows exactly, whatever the rest of the vocabulary holds; the full distribution does
not. A token that the server does not name is therefore never taken to be impossible unless a top-k
of at most N makes it so, and where the user asked for more, the run says which top-k it had.
"""

from __future__ import annotations

from dataclasses import dataclass

from specdec.sampling import Sampler
from specdec.targets.base import Exactness
from specdec.targets.server.noise import NOTICEABLE, noise_words


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the probe found out about one model on one server.

    Attributes:
        server: what it calls itself.
        protocol: "score", "prefixes" or "continue": how drafts are verified.
        form: which of the protocol's wordings it understands.
        takes_ids: whether prompts travel as token ids; as text they are tokenised again.
        names_ids: whether answers name tokens by id; by text, some cannot be told apart.
        top_logprobs: N, the alternatives it returns per position.
        vocab_size: of the target, as far as the server or the tokenizer knows.
        context_length: in tokens.
        rtt_s: the shortest round trip seen.
        score_s: time of one verification by `score`, where there was a choice of protocols.
        prefixes_s: the same by `prefixes`.
        noise: the largest difference seen between two of its answers to the same question, in nats.
        padding: rows that the model's head may have beyond `vocab_size`; they print nothing.
    """

    server: str
    protocol: str
    form: str
    takes_ids: bool
    names_ids: bool
    top_logprobs: int
    vocab_size: int
    context_length: int
    rtt_s: float
    score_s: float | None = None
    prefixes_s: float | None = None
    noise: float = 0.0
    padding: int = 0

    @property
    def whole_vocabulary(self) -> bool:
        return self.top_logprobs >= self.vocab_size

    def exactness_for(self, sampler: Sampler) -> Exactness:
        """Say which law the output of a run with `sampler` follows."""
        doubts = []
        if not self.takes_ids:
            doubts.append(
                "prompts travel as text and are tokenised again by the server, which may cut them "
                "differently"
            )
        if not self.names_ids:
            doubts.append(
                "the server names tokens by their text, and tokens with the same text, or with "
                "none of their own, cannot be told apart"
            )
        is_cut = not self._reaches(sampler)
        if is_cut:
            asked = f"top-k = {sampler.top_k}" if sampler.top_k else "no top-k"
            cut = f"the server returns only its {self.top_logprobs} likeliest tokens, and {asked} "
            doubts.append(cut + "was asked for")
        is_noisy = self.noise > NOTICEABLE
        if is_noisy:
            doubts.append(f"{noise_words(self.noise)} only")
        if self.takes_ids and self.names_ids and not is_noisy:
            kind = "top_k" if is_cut else "exact"
        else:
            kind = "approximate"
        return Exactness(kind, "; ".join(doubts), self.top_logprobs if is_cut else None)

    def _reaches(self, sampler: Sampler) -> bool:
        """Say whether the alternatives hold every token that `sampler` may draw."""
        return (
            sampler.temperature == 0.0
            or self.whole_vocabulary
            or 0 < sampler.top_k <= self.top_logprobs
        )
