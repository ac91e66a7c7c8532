"""Greedy speculative decoding against plain decoding: every drafter, every K, twenty prompts.

    python -m benchmarks.exactness [--tokens 32] [--drafts ngram layer-skip …]

Prints one JSON document and exits with status 1 if any token differs anywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache

from specdec import RoundResult, RoundSettings, RunConfig, Sampler, generate
from specdec.pair import load_model, make_drafter, make_pair
from specdec.settings import MAX_NUM_DRAFT_TOKENS
from tests.real.test_smollm2 import PROMPTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--target", default=RunConfig().target)
    parser.add_argument("--drafts", nargs="+", default=["ngram", "layer-skip"])
    options = parser.parse_args()

    config = RunConfig(target=options.target, draft="none", backend="portable")
    load = cache(load_model)
    pair = make_pair(config, load)
    target = load(options.target, "portable")
    drafters = [make_drafter(name, target, "portable", load) for name in options.drafts]
    num_runs, differing = 0, []
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
        for drafter in drafters:
            for num_draft_tokens in range(MAX_NUM_DRAFT_TOKENS + 1):
                num_runs += 1
                if write(drafter, num_draft_tokens) != plain:
                    differing.append([index, drafter.name, num_draft_tokens])
        print(f"prompt {index + 1} of {len(PROMPTS)}", file=sys.stderr)
    print(json.dumps({"runs": num_runs, "differing": differing}))
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
