"""GGUF files as people have them: what each holds and whether it opens (for docs/supported.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

NONE = None
TOKENS = 300
G, L = "tokenizer.ggml.", "llama."

OBEYED: list[tuple[str, dict[str, Any]]] = [
    ("as llama.cpp's converter writes it", {}),
    ("no pre-tokenizer named", {G + "pre": NONE}),
    ("no token types", {G + "token_type": NONE}),
    ("no special ids", {f"{G}{name}_token_id": NONE for name in ("bos", "eos")}),
    ("special ids out of range", {G + "bos_token_id": 4_000_000_000, G + "eot_token_id": 300}),
    ("an end of turn of its own", {G + "eot_token_id": 0}),
    ("no head_count_kv, which means one key head a head", {L + "attention.head_count_kv": NONE}),
    ("linear scaling", {L + "rope.scaling.type": "linear", L + "rope.scaling.factor": 2.0}),
    ("linear scaling without a factor", {L + "rope.scaling.type": "linear"}),
    (
        "linear scaling by the older name of its factor",
        {L + "rope.scaling.type": "linear", L + "rope.scale_linear": 2.0},
    ),
    (
        "YaRN",
        {
            L + "rope.scaling.type": "yarn",
            L + "rope.scaling.factor": 4.0,
            L + "rope.scaling.original_context_length": 512,
        },
    ),
    ("no freq_base, which means 10000", {L + "rope.freq_base": NONE}),
    ("no chat template", {"tokenizer.chat_template": NONE}),
    ("a context of 4·10⁹ tokens", {L + "context_length": 2_000_000_000}),
]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("another architecture", {"changes": {"general.architecture": "qwen2"}}, "'qwen2'"),
    ("a sentencepiece vocabulary", {"changes": {G + "model": "llama"}}, "'llama' vocabulary"),
    ("no vocabulary", {"changes": {G + "model": NONE}}, "None vocabulary"),
    ("a way to cut words that is not known", {"changes": {G + "pre": "tekken"}}, "'tekken'"),
    ("a number for it", {"changes": {G + "pre": 7}}, "the way of 7"),
    ("no merges", {"changes": {G + "merges": NONE}}, "no list of texts as .*merges"),
    ("merges that are numbers", {"changes": {G + "merges": [1, 2]}}, "no list of texts"),
    ("merges of no tokens", {"changes": {G + "merges": ["quux zork"]}}, "merges 'quux zork'"),
    ("merges without a space", {"changes": {G + "merges": ["the"]}}, "merges 'the'"),
    ("no tokens", {"changes": {G + "tokens": NONE}}, "no list of texts as .*tokens"),
    ("more tokens than embeddings", {"changes": {G + "tokens": [str(i) for i in range(400)]}},
     "400 tokens"),
    ("tokens twice", {"changes": {G + "tokens": ["a"] * 300}}, "1 different"),
    ("fewer types than tokens", {"changes": {G + "token_type": [1, 1]}}, "no kind for each"),
    ("a number for the types", {"changes": {G + "token_type": 1}}, "no kind for each"),
    ("a number of heads by layer", {"changes": {L + "attention.head_count": [4, 4, 2]}},
     "head_count as"),
    ("no heads", {"changes": {L + "attention.head_count": 0}}, "head_count as 0"),
    ("key heads that do not fit", {"changes": {L + "attention.head_count_kv": 3}}, "fit together"),
    ("no context_length", {"changes": {L + "context_length": NONE}}, "context_length"),
    ("no width", {"changes": {L + "embedding_length": NONE}}, "embedding_length"),
    ("another width", {"changes": {L + "embedding_length": 64}}, "part of each"),
    ("another width of embeddings", {"changes": {L + "embedding_length": 36}}, "fit together|part"),
    ("a width as text", {"changes": {L + "embedding_length": "32"}}, "embedding_length as '32'"),
    ("no blocks", {"changes": {L + "block_count": NONE}}, "block_count"),
    ("10⁹ blocks", {"changes": {L + "block_count": 10**9}}, r"lacks blk\.3\."),
    ("fewer blocks than there are", {"changes": {L + "block_count": 2}}, r"holds blk\.2\."),
    ("no feed_forward_length", {"changes": {L + "feed_forward_length": NONE}}, "feed_forward"),
    ("another feed_forward_length", {"changes": {L + "feed_forward_length": 65}}, "shape"),
    ("no epsilon", {"changes": {L + "attention.layer_norm_rms_epsilon": NONE}}, "epsilon"),
    ("an epsilon below 0", {"changes": {L + "attention.layer_norm_rms_epsilon": -1.0}},
     "no number from 0"),
    ("freq_base 0", {"changes": {L + "rope.freq_base": 0.0}}, "freq_base as 0"),
    ("a part of each head rotated", {"changes": {L + "rope.dimension_count": 4}}, "part of each"),
    ("values of another width", {"changes": {L + "attention.value_length": 16}}, "another width"),
    ("an odd width of heads", {"changes": {L + "attention.key_length": 7}}, "part of each|fit"),
    ("a scaling that is not known", {"changes": {L + "rope.scaling.type": "longrope"}},
     "'longrope'"),
    ("YaRN of llama.cpp's own", {"changes": {L + "rope.scaling.type": "yarn",
     L + "rope.scaling.yarn_log_multiplier": 0.1}}, "yarn_log_multiplier"),
    ("experts", {"changes": {L + "expert_count": 8}}, "expert_count as 8"),
    ("a sliding window", {"changes": {L + "attention.sliding_window": 64}}, "sliding_window"),
    ("logits scaled", {"changes": {L + "logit_scale": 0.5}}, "logit_scale as 0.5"),
    ("factors that are not Llama 3's", {"extra": {"rope_freqs.weight": np.full(4, 3, np.float32)}},
     "not Llama 3's"),
    ("factors that are no numbers",
     {"extra": {"rope_freqs.weight": np.full(4, np.nan, np.float32)}}, "no numbers"),
    ("a bias", {"extra": {"blk.0.attn_q.bias": np.zeros(32, np.float32)}}, r"attn_q\.bias"),
    ("no embeddings", {"without": "token_embd.weight"}, "no token embeddings"),
    ("a block without a tensor", {"without": "blk.1.ffn_up.weight"}, r"lacks blk\.1\.ffn_up"),
    ("no final norm", {"without": "output_norm.weight"}, "lacks output_norm"),
]  # fmt: skip
