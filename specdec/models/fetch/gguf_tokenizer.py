"""The tokenizer in a GGUF file's metadata, written as Hugging Face tokenizer files.

GGUF stores the tokens, their types, the merges and the *name* of the pre-tokenizer; what a name
means is fixed by llama.cpp (`llama-vocab.cpp`). Byte-level BPE only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from specdec.errors import ModelError
from specdec.models.json_values import Values

_KEY = "tokenizer.ggml"
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # of GGUF's token types; the last two come before merges
_MARKER = re.compile(r"<\|[^|<>]+\|>|<(start|end)_of_turn>")
ENDS_OF_A_TURN = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|eom_id|>",
        "<|end_of_turn|>",
        "<|eot|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "_<EOT>",
        "<EOT>",
    }
)
"""Tokens that end a turn by what they are called, whether the metadata name them or not."""
_ENDS_OF_A_TEXT = frozenset({"<|endoftext|>", "<|end_of_text|>", "</s>"})
"""What ends everything where the metadata name no end at all."""

_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
PRE_TOKENIZERS = ("default", "gpt-2", "smollm", *_LLAMA_3)
"""The ways to cut words that are known here, by llama.cpp's names."""
_LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary of a GGUF file, checked.

    Attributes:
        tokens: the text of each id, in GPT-2's alphabet.
        types: the kind of each.
        merges: pairs of tokens, the first to be merged first.
        pre: the name of the pre-tokenizer.
        ids: of "bos", "eos", "eot", "unknown", "padding", as far as they are there.
        adds_bos: whether a text begins with "bos".
        template: the chat template, if any.
    """

    tokens: list[str]
    types: list[int]
    merges: list[tuple[str, str]]
    pre: str
    ids: dict[str, int]
    adds_bos: bool
    template: str | None


def read_vocabulary(values: Values, num_rows: int) -> Vocabulary:
    """Read the metadata `tokenizer.*` of a file whose embedding has `num_rows`.

    Raises:
        ModelError: it is missing, broken, or of a kind that cannot be converted.
    """
    known = values.values
    kind = known.get(f"{_KEY}.model")
    if kind != "gpt2":
        raise ModelError(
            f"{values.file} has a {kind!r:.60} vocabulary, and only byte-level ones ('gpt2') can "
            "be converted; give the Hugging Face id of the same model instead."
        )
    tokens = _texts(values, "tokens")
    if len(tokens) > num_rows or len(set(tokens)) < len(tokens):
        raise ModelError(
            f"{values.file} has {len(tokens)} tokens ({len(set(tokens))} different ones) over "
            f"{num_rows} embeddings, which do not fit together; download it again."
        )
    ids = {
        name: index
        for name in ("bos", "eos", "eot", "unknown", "padding")
        if isinstance(index := known.get(f"{_KEY}.{name}_token_id"), int)
        and 0 <= index < len(tokens)  # llama.cpp passes over others, too
    }
    pre = _pre(values, tokens)
    template = known.get("tokenizer.chat_template")
    adds_bos = known.get(f"{_KEY}.add_bos_token", pre in _LLAMA_3)
    return Vocabulary(
        tokens,
        _types(values, tokens),
        _merges(values, set(tokens)),
        pre,
        ids,
        adds_bos is True,
        template if isinstance(template, str) and template else None,
    )


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    tokens, ids = vocabulary.tokens, vocabulary.ids
    tokenizer = _build(vocabulary)
    if vocabulary.adds_bos and "bos" in ids:
        bos = tokens[ids["bos"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, ids["bos"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{names[name]}_token": tokens[index] for name, index in ids.items() if name in names},
        "chat_template": vocabulary.template,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)
    by_name = ENDS_OF_A_TURN if "eos" in ids else ENDS_OF_A_TURN | _ENDS_OF_A_TEXT
    named = {index for index, token in enumerate(tokens) if token in by_name}
    ends = sorted({ids[name] for name in ("eos", "eot") if name in ids} | named)
    generation = {"bos_token_id": ids.get("bos"), "eos_token_id": ends or None}
    write_json(folder / "generation_config.json", generation)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` for people to read, without the keys that are None."""
    known = {key: item for key, item in value.items() if item is not None}
    path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _build(vocabulary: Vocabulary) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(vocabulary.tokens)},
            merges=vocabulary.merges,
            # Llama 3 takes a word that is a token as it is, whatever the merges would make of it.
            ignore_merges=vocabulary.pre in _LLAMA_3,
        )
    )
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer


def _texts(values: Values, name: str) -> list[str]:
    """Return a list of texts from the metadata."""
    found = values.values.get(f"{_KEY}.{name}")
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        raise ModelError(
            f"{values.file} has no list of texts as {_KEY}.{name}; convert the model again, or "
            "give the Hugging Face id of the same model instead."
        )
    return found


def _types(values: Values, tokens: list[str]) -> list[int]:
    """Return the kind of each token; where the file has none, control tokens show by their form.

    An end of a turn is a control token whatever the file says.
    """
    found = values.values.get(f"{_KEY}.token_type")
    if found is None:
        found = [_CONTROL if _MARKER.fullmatch(token) else _NORMAL for token in tokens]
    fits = isinstance(found, list) and len(found) == len(tokens)
    if not fits or not all(isinstance(kind, int) for kind in found):
        raise ModelError(
            f"{values.file} has no kind for each of its {len(tokens)} tokens in {_KEY}.token_type; "
            "convert the model again."
        )
    ends = ENDS_OF_A_TURN | _ENDS_OF_A_TEXT
    return [_CONTROL if token in ends else kind for token, kind in zip(tokens, found, strict=True)]


def _merges(values: Values, tokens: set[str]) -> list[tuple[str, str]]:
    pairs = []
    for merge in _texts(values, "merges"):
        left, _, right = merge.partition(" ")  # a byte-level token never holds a space
        if not {left, right, left + right} <= tokens:
            raise ModelError(
                f"{values.file} merges {merge!r:.60}, which are no tokens of its vocabulary; "
                "convert the model again."
            )
        pairs.append((left, right))
    return pairs


def _pre(values: Values, tokens: list[str]) -> str:
    """Return the name of the pre-tokenizer: what the file says, unless it says nothing.

    Early files of Llama 3 say nothing or "default", and GPT-2's words are not Llama 3's.
    """
    name = values.values.get(f"{_KEY}.pre") or "default"
    if name == "default" and "<|begin_of_text|>" in tokens:
        return "llama-bpe"
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{values.file} cuts words the way of {name!r:.60}, which is not known here (known: "
            f"{', '.join(PRE_TOKENIZERS)}); give the Hugging Face id of the same model instead."
        )
    return name


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """Return how text is cut into words before the merges."""
    gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt_2])
    if name in _LLAMA_3:
        words = pre_tokenizers.Split(Regex(_LLAMA_3_WORDS), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([words, to_bytes])
    return gpt_2
