"""Tokenizers over a handful of letters, with merges of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Engine

from specdec.models.tokenizer import Tokenizer


def write_toy_tokenizer(
    folder: Path,
    tokens: Sequence[str],
    *,
    control: Sequence[str] = (),
    template: str | None = None,
) -> Tokenizer:
    """Write and open a byte-level BPE whose ids are the places of `tokens`, then of `control`.

    A token of several letters is merged from the first pair of tokens that spells it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = {left + right: (left, right) for right in tokens for left in tokens}
    merges = [pairs[token] for token in tokens if len(token) > 1]
    engine = Engine(models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(name, special=True) for name in control])
    engine.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(folder)
