"""A draft model with a vocabulary of its own: it reads the text, and drafts what both can say.

The draft's context is the same conversation in its own chat format and its own tokens, encoded
anew whenever the text has grown; `CachedContext` keeps what the two encodings share. It drafts from
its distribution over the shared tokens, so the output law is the target's whatever it reads.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

from specdec.drafters.base import Drafter, Hidden
from specdec.drafters.context import DraftContext
from specdec.drafters.model import ModelDrafter
from specdec.drafters.tree import TreeDrafter
from specdec.drafters.vocabulary import VocabularyMap, match_vocabularies, single_bytes
from specdec.models.base import LanguageModel
from specdec.models.tokenizer import Tokenizer
from specdec.sampling import Distribution, FloatArray, Sampler

_MARK = "HERE-STANDS-THE-MESSAGE"


def make_model_drafter(
    model: LanguageModel,
    tokenizer: Tokenizer,
    target: Tokenizer,
    target_vocab_size: int,
    shape: str | None = None,
) -> Drafter:
    """Make `model` a drafter for a target, translating where the vocabularies differ.

    Args:
        model: the draft model.
        tokenizer: its tokenizer.
        target: the target's tokenizer.
        target_vocab_size: length of the target's distributions, padding included.
        shape: of the tree that it drafts, as `TreeDrafter` takes it; a chain by default.

    Raises:
        ModelError: the vocabularies have too little in common.
        SettingsError: there is no such shape.
    """
    match = match_vocabularies(tokenizer, target)
    if match.same_ids and model.vocab_size == target_vocab_size:
        chain = ModelDrafter(model)
    else:
        chain = TranslatedDrafter(model, tokenizer, target, target_vocab_size, match)
    if shape is None:
        return chain
    return TreeDrafter(model, shape, chain.name, chain.open_context)


class TranslatedDrafter(ModelDrafter):
    """Draw a chain of tokens from a draft model over the vocabulary of the target."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        target: Tokenizer,
        target_vocab_size: int,
        match: VocabularyMap,
    ) -> None:
        """Prefer `make_model_drafter`.

        Args:
            model: the draft model.
            tokenizer: its tokenizer.
            target: the target's tokenizer.
            target_vocab_size: length of the target's distributions.
            match: the tokens they share.
        """
        super().__init__(model)
        self.match = match
        self.target_vocab_size = target_vocab_size
        self.translator = Translator(tokenizer, target, match)

    def open_context(self, prompt: Sequence[int]) -> TranslatedContext:
        return TranslatedContext(self, prompt)


class TranslatedContext(DraftContext):
    """The draft's own encoding of the text, and its words for the target's tokens."""

    def __init__(self, drafter: TranslatedDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._num_prompt_tokens = len(prompt)
        self._prompt = drafter.translator.prompt(prompt)
        self._own_ids: dict[int, int] = dict(
            zip(drafter.match.target_ids.tolist(), drafter.match.draft_ids.tolist(), strict=True)
        )
        super().__init__(drafter.model, prompt)

    def read(self, context: Sequence[int], hidden: Hidden | None = None) -> list[int]:
        output = context[self._num_prompt_tokens :]
        return [*self._prompt, *self._drafter.translator.output(output)]

    def own_id(self, token_id: int) -> int:
        return self._own_ids[token_id]

    def distribution(self, logits: FloatArray, sampler: Sampler) -> Distribution | None:
        lifted = self._drafter.match.lift(logits, self._drafter.target_vocab_size)
        return None if lifted.max() == -np.inf else Distribution.from_logits(lifted, sampler)


class Translator:
    """Rewrites the target's token ids as the draft's."""

    def __init__(self, draft: Tokenizer, target: Tokenizer, match: VocabularyMap) -> None:
        self._draft = draft
        self._target = target
        self._same_ids = set(match.target_ids.tolist()) if match.same_ids else None
        self._bytes = single_bytes(draft)
        self._around = self._template()

    def prompt(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt as the draft would have been given it: in its own chat format."""
        if self._same_ids is not None:
            return self._known(prompt) or self._encode(b" ")
        before, after = self._around
        said = b"".join(map(self._target.token_bytes, prompt))
        if said.startswith(before) and said.endswith(after):
            content = said[len(before) : len(said) - len(after)].decode("utf-8", "replace")
            return self._draft.apply_chat_template([{"role": "user", "content": content}])
        text = b"".join(map(self._target.printed_bytes, prompt)).decode("utf-8", "replace")
        return self._draft.encode(text or " ", add_special_tokens=True)

    def output(self, output: Sequence[int]) -> list[int]:
        """Return what the target has written, in the draft's tokens; control tokens drop out."""
        if self._same_ids is not None:
            return self._known(output)
        return self._encode(b"".join(map(self._target.printed_bytes, output)))

    def _known(self, token_ids: Sequence[int]) -> list[int]:
        assert self._same_ids is not None
        return [token_id for token_id in token_ids if token_id in self._same_ids]

    def _encode(self, data: bytes) -> list[int]:
        """Encode bytes that may end inside a character: its first bytes stay bytes."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        rest, _ = decoder.getstate()
        tail = [self._bytes[byte] for byte in rest if byte in self._bytes]
        return [*self._draft.encode(text), *tail]

    def _template(self) -> tuple[bytes, bytes]:
        """Return the bytes that the target's chat template puts around a user's message."""
        marked = self._target.apply_chat_template([{"role": "user", "content": _MARK}])
        text = b"".join(map(self._target.token_bytes, marked))
        before, _, after = text.partition(_MARK.encode())
        return before, after
