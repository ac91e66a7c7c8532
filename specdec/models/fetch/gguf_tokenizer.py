"""The tokenizer in a GGUF file's metadata, written as Hugging Face tokenizer files.

GGUF stores the tokens, their types, the merges and the *name* of the pre-tokenizer; what a name
means is fixed by llama.cpp (`llama-vocab.cpp`). Byte-level BPE only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from specdec.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4  # of GGUF's token types, those that are found before any merge
_LLAMA_3 = "llama-bpe"
_LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f"This GGUF file has a {kind!r} vocabulary, and only byte-level ones ('gpt2') can be "
            "converted; give the Hugging Face id of the same model instead."
        )
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {
        name: metadata[key]
        for name in ("bos", "eos", "eot", "unknown", "padding")
        if (key := f"tokenizer.ggml.{name}_token_id") in metadata
    }
    pre_tokenizer = str(metadata.get("tokenizer.ggml.pre", "default"))
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", pre_tokenizer == _LLAMA_3)
    tokenizer = _build(metadata, pre_tokenizer)
    if adds_bos and "bos" in ids:
        bos = tokens[ids["bos"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, ids["bos"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{names[name]}_token": tokens[index] for name, index in ids.items() if name in names},
        "chat_template": metadata.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)
    ends = sorted({ids[name] for name in ("eos", "eot") if name in ids})
    generation = {"bos_token_id": ids.get("bos"), "eos_token_id": ends or None}
    write_json(folder / "generation_config.json", generation)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` for people to read, without the keys that are None."""
    known = {key: item for key, item in value.items() if item is not None}
    path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _build(metadata: Mapping[str, Any], pre_tokenizer: str) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges: list[str] = metadata["tokenizer.ggml.merges"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            # A merge is "left right"; a byte-level token never holds a space.
            merges=[(left, right) for left, right in (merge.split(" ") for merge in merges)],
            # Llama 3 takes a word that is a token as it is, whatever the merges would make of it.
            ignore_merges=pre_tokenizer == _LLAMA_3,
        )
    )
    tokenizer.pre_tokenizer = _pre_tokenizer(pre_tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    for token, kind in zip(tokens, types, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """Return how text is cut into words before the merges."""
    gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in ("gpt-2", "default"):
        return gpt_2
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt_2])
    if name == _LLAMA_3:
        words = pre_tokenizers.Split(Regex(_LLAMA_3_WORDS), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([words, to_bytes])
    raise ModelError(
        f"This GGUF file cuts words the way of {name!r}, which is not known here (known: smollm, "
        "llama-bpe, gpt-2); give the Hugging Face id of the same model instead."
    )
