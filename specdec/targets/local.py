"""A target on this machine: a language model and a KV cache per run."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.acceptance import Draft
from specdec.models.base import Inside, LanguageModel
from specdec.models.context import CachedContext
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores, Wanted


class LocalTarget:
    """Score drafts with a local model, in one forward pass per round.

    With `one_row`, every token goes through it alone, as in plain decoding: nothing is gained, but
    the logits are those of plain decoding to the last bit, on any backend.
    """

    link_is_emulated = False

    def __init__(self, model: LanguageModel, *, one_row: bool = False) -> None:
        self.model = model
        self.one_row = one_row
        self.name = model.name
        self.backend = model.backend
        self.vocab_size = model.vocab_size
        self.context_length = model.context_length

    def exactness_for(self, sampler: Sampler) -> Exactness:
        if self.model.batch_invariant:
            return Exactness()
        if self.one_row:
            return Exactness(reason="verified one row at a time")
        return Exactness(
            "rounded",
            "tokens verified together may round otherwise than alone, so that a near tie can fall "
            "the other way; verify one row at a time to exclude that",
        )

    def cannot_give(self, wanted: Wanted) -> str | None:
        return self.model.cannot_give(wanted.hidden_layers, wanted.attention) if wanted else None

    def start(self, prompt: Sequence[int], wanted: Wanted = LOGITS_ONLY) -> LocalTargetRun:
        return LocalTargetRun(self.model, prompt, wanted, one_row=self.one_row)


class LocalTargetRun:
    """The target's KV cache of one run."""

    def __init__(
        self, model: LanguageModel, prompt: Sequence[int], wanted: Wanted, *, one_row: bool = False
    ) -> None:
        self._context = CachedContext(model, one_row=one_row)
        self._wanted = wanted
        read = self._inside()
        self._context.prefill(prompt, read)
        self.read_hidden = read.hidden if read and wanted.hidden_layers else None

    def _inside(self) -> Inside | None:
        wanted = self._wanted
        return Inside(wanted.hidden_layers, wanted.attention) if wanted else None

    def score(self, context: Sequence[int], draft: Draft) -> Scores:
        inside = self._inside()
        logits = list(self._context.score(context, draft, inside))
        num_sequences = self._context.num_sequences(draft)
        if inside is None:
            return Scores(logits, num_sequences=num_sequences)
        asked = slice(-len(logits), None)  # tokens of the context may stand before them
        return Scores(
            logits,
            num_sequences=num_sequences,
            hidden=inside.hidden[asked] if inside.layers else None,
            attention=[w[:, asked] for w in inside.attention_weights] if inside.attention else None,
        )

    def close(self) -> None:
        self._context.cache.truncate(0)
