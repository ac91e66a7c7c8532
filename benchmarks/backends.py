"""The same pair on every backend that is installed here: cost, speed, agreement, repeatability.

    python -m benchmarks.backends [--backends portable torch:cpu mlx] [--repeats 20] [--tokens 64]

Forwards of 1, 5 and 9 tokens are timed in turn, one backend after the other in each repeat, so that
whatever else the machine does falls on all of them. Prints a table with the hardware it belongs to,
and one JSON document. What the columns say:

- forward(n): median milliseconds for n tokens after `--context` cached ones.
- plain, speculative: tokens per second at temperature 0, the first call left out of plain.
- agreement: the largest difference of a log-probability from the first backend's, over a prompt.
- same text: whether speculative decoding wrote what plain decoding of the same backend did; the
  first difference with its margin in nats where not.
- batch: whether a token's logits are the same to the last bit alone and among nine.
- repeats: whether the same forward on a fresh cache gives the same bits again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np

from specdec.drafters.model import ModelDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.models.backends import installed_backends
from specdec.models.base import LanguageModel
from specdec.pair import LoadedModel, load_model, make_drafter
from specdec.records import RoundResult, RunSummary
from specdec.runs.audit import compare
from specdec.runs.machine import describe_environment
from specdec.sampling import Sampler
from specdec.settings import DEFAULT_MODEL, default_draft, quiet_threads
from specdec.targets.local import LocalTarget

SIZES = (1, 5, 9)
NUM_DRAFT_TOKENS = 4
PROMPT = "Explain to a curious child why the sky is blue and the sunset red."


@dataclass
class Row:
    """What was found of one backend; its forwards in milliseconds by the number of tokens."""

    backend: str
    forward_ms: dict[int, float]
    plain_per_s: float
    speculative_per_s: float
    acceptance: float | None
    largest_difference: float
    same_text: str
    batch_is_bitwise: bool
    repeat_is_bitwise: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=DEFAULT_MODEL)
    parser.add_argument("--draft")
    parser.add_argument("--backends", nargs="+", help="as the settings name them: torch:cuda, say")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=64, help="tokens already in the cache")
    options = parser.parse_args()
    quiet_threads()
    places = options.backends or [name for name in installed_backends() if name != "auto"]
    targets = {place: load_model(options.target, place) for place in places}
    models = [loaded.model for loaded in targets.values()]
    times = time_forwards(models, options.repeats, options.context)
    ids = targets[places[0]].tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}])
    reference = log_probs(models[0], ids)
    rows = []
    for place, forward_ms in zip(places, times, strict=True):
        draft = options.draft or default_draft(options.target, "mlx")  # one for every backend
        found = write_both(targets[place], draft, place, ids, options.tokens)
        difference = float(np.abs(log_probs(targets[place].model, ids) - reference).max())
        bits = bitwise(targets[place].model, ids)
        backend = targets[place].model.backend
        rows.append(Row(backend, forward_ms, *found[:3], difference, found[3], *bits))
    print_table(rows)
    environment = describe_environment()
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    print(json.dumps({"rows": [asdict(row) for row in rows], "environment": environment}))


def time_forwards(
    models: list[LanguageModel], repeats: int, num_context: int
) -> list[dict[int, float]]:
    """Return the median milliseconds of each size, by model."""
    caches = [model.new_cache() for model in models]
    context = [100 + i % 50 for i in range(num_context)]
    for model, cache in zip(models, caches, strict=True):
        model.prefill(context, cache)
    times = [{size: [] for size in SIZES} for _ in models]
    for _ in range(repeats + 1):
        for model, cache, measured in zip(models, caches, times, strict=True):
            for size in SIZES:
                began_s = time.perf_counter()
                model.forward(list(range(100, 100 + size)), cache)
                measured[size].append(1e3 * (time.perf_counter() - began_s))
                cache.truncate(num_context)
    return [{size: statistics.median(m[size][1:]) for size in SIZES} for m in times]


def write_both(
    loaded: LoadedModel, draft: str, place: str, ids: list[int], num_tokens: int
) -> tuple[float, float, float | None, str]:
    """Return tokens per second plain and speculative, the acceptance rate, and the comparison."""
    drafter = make_drafter(draft, loaded, place, load_model)
    assert isinstance(drafter, ModelDrafter)
    greedy = Sampler(temperature=0)
    found = []
    for one, k in ((NoDrafter(), 0), (drafter, NUM_DRAFT_TOKENS)):
        settings = RoundSettings(one, k, greedy)
        events = list(generate(ids, LocalTarget(loaded.model), settings, max_tokens=num_tokens))
        assert isinstance(events[-1], RunSummary)
        found.append(([e for e in events if isinstance(e, RoundResult)], events[-1]))
    (plain, plain_summary), (rounds, summary) = found
    warm_s = sum(r.wall_s for r in plain[1:]) or plain_summary.decode_s
    said = str(compare(rounds, plain))
    return (len(plain[1:]) or 1) / warm_s, summary.tokens_per_s, summary.draft_acceptance_rate, said


def log_probs(model: LanguageModel, ids: list[int]) -> np.ndarray:
    """Return the log-probabilities [num_tokens, vocab_size] of a prompt, fed nine at a time."""
    cache = model.new_cache()
    parts = [model.forward(ids[i : i + 9], cache) for i in range(0, len(ids), 9)]
    logits = np.concatenate(parts).astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def bitwise(model: LanguageModel, ids: list[int]) -> tuple[bool, bool]:
    """Say whether nine tokens give the same bits alone and together, and together once more."""
    context, last = ids[:-9], ids[-9:]
    ways = []
    for pieces in ([last], [last], [[token_id] for token_id in last]):
        cache = model.new_cache()
        model.prefill(context, cache)
        ways.append(np.concatenate([np.array(model.forward(piece, cache)) for piece in pieces]))
    together, again, alone = ways
    return bool(np.array_equal(together, alone)), bool(np.array_equal(together, again))


def print_table(rows: list[Row]) -> None:
    heads = [f"forward({size}) ms" for size in SIZES]
    heads += ["plain /s", "speculative /s", "accepted", "agreement", "batch", "repeats"]
    width = max(len(row.backend) for row in rows)
    print("  ".join([" " * width, *heads]))
    for row in rows:
        rate = "–" if row.acceptance is None else f"{row.acceptance:.0%}"
        cells = [f"{row.forward_ms[size]:.1f}" for size in SIZES]
        cells += [f"{row.plain_per_s:.1f}", f"{row.speculative_per_s:.1f}", rate]
        cells += [f"{row.largest_difference:.1e}"]
        cells += ["bitwise" if row.batch_is_bitwise else "rounds"]
        cells += ["bitwise" if row.repeat_is_bitwise else "differ"]
        shown = [cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True)]
        print("  ".join([row.backend.ljust(width), *shown]))
    for row in rows:
        print(f"{row.backend}: {row.same_text}")


if __name__ == "__main__":
    main()
