"""Greedy speculative decoding against plain decoding: every drafter, every K, twenty prompts.

    python -m benchmarks.exactness [--tokens 32] [--drafts smollm2-draft 'smollm2-draft 3-2-1' …]

A draft may have a shape behind it, as `--tree` takes one. Prints its progress, a table (how many
prompts agree, by drafter and K) and one JSON document, and exits with status 1 if any token differs
anywhere. With --tokens 16 and three drafters it took half an hour on two idle cores; the time grows
with the tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from functools import cache

from specdec import RoundResult, RoundSettings, RunConfig, Sampler, generate
from specdec.pair import load_model, make_drafter, make_pair
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from tests.real.test_smollm2 import PROMPTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--target", default=RunConfig().target)
    parser.add_argument(
        "--drafts",
        nargs="+",
        default=[
            "smollm2-draft",
            "layer-skip",
            "ngram",
            "suffix",
            "smollm2-draft 3-2-1",
            "smollm2-draft auto",
        ],
    )
    options = parser.parse_args()

    config = RunConfig(target=options.target, draft="none", backend="portable")
    load = cache(load_model)
    pair = make_pair(config, load)
    target = load(options.target, "portable")
    drafters = {
        name: make_drafter(draft, target, "portable", load, tree=tree)
        for name in options.drafts
        for draft, _, tree in [name.partition(" ")]
    }
    agreeing, differing = Counter(), []
    began_s = time.monotonic()
    for index, prompt in enumerate(PROMPTS):
        ids = pair.encode_prompt(prompt)

        def write(drafter, num_draft_tokens, ids=ids):
            events = generate(
                ids,
                pair.target,
                RoundSettings(drafter, num_draft_tokens, Sampler(0.0)),
                max_tokens=options.tokens,
                eos_token_ids=pair.tokenizer.eos_token_ids,
            )
            return [t for e in events if isinstance(e, RoundResult) for t in e.emitted]

        plain = write(pair.drafter, 0)
        for name, drafter in drafters.items():
            for num_draft_tokens in range(MAX_NUM_DRAFT_TOKENS + 1):
                agrees = write(drafter, num_draft_tokens) == plain
                agreeing[name, num_draft_tokens] += agrees
                if not agrees:
                    differing.append([index, name, num_draft_tokens])
        say(
            f"prompt {index + 1} of {len(PROMPTS)}: {len(plain)} tokens, {len(differing)} runs "
            f"differ so far, {time.monotonic() - began_s:.0f} s"
        )
    counts = range(MAX_NUM_DRAFT_TOKENS + 1)
    say(f"prompts of {len(PROMPTS)} with the same tokens as plain decoding, by K:")
    say(f"{'':20}" + "".join(f"{k:4}" for k in counts))
    for name in drafters:
        say(f"{name:20}" + "".join(f"{agreeing[name, k]:4}" for k in counts))
    print(json.dumps({"runs": len(PROMPTS) * len(agreeing), "differing": differing}))
    return 1 if differing else 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
