"""How far the portable backend is from what the memory allows, and what the rest goes to.

    python -m benchmarks.limit [--repeats 20] [--context 256] [--small]

A forward must read every weight once, whatever its number of rows: at best it takes its bytes over
the bandwidth, which is measured in the same run, in turn with the forwards, over the very weights.
What is beyond that is named: Python and the launch (a forward without layers and head), attention
(the same forward without a context), sampling (not part of a forward), and the rest, which is
arithmetic, norms and waiting for threads. Each is the least of its repeats: a limit is what a
machine can do when nobody disturbs it. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from specdec.models.base import LanguageModel
from specdec.models.portable import PortableModel
from specdec.pair import load_model
from specdec.runs.machine import describe_environment, num_cpus
from specdec.sampling import Distribution, Sampler, sample
from specdec.settings import DEFAULT_MODEL

ROWS = (1, 5, 9, 17)
SAMPLER = Sampler(0.7)


@dataclass(frozen=True)
class Work:
    """A forward that is timed: the model, its number of rows, tokens already in the cache."""

    model: PortableModel
    num_rows: int
    context: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--draft", default="smollm2-draft", help="a small model, no feature head")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="three repeats, 32 tokens of context")
    asked = parser.parse_args()
    if asked.small:
        asked.repeats, asked.context = 3, 32
    target, draft = (load_model(name, "portable").model for name in (asked.model, asked.draft))
    report = measure(target, draft, asked.repeats, asked.context)
    print(json.dumps(report | {"environment": describe_environment()}, indent=1))


def measure(
    target: LanguageModel | None, draft: LanguageModel | None, repeats: int, context: int
) -> dict[str, object]:
    """Time everything in turn and hold it against the bandwidth."""
    assert isinstance(target, PortableModel)
    assert isinstance(draft, PortableModel)
    works = {f"{rows} rows": Work(target, rows, context) for rows in ROWS}
    works["draft step"] = Work(draft, 1, context)
    actions: dict[str, Callable[[], float]] = {"read": lambda: _read(target)}
    for name, work in works.items():
        bare = replace(work.model, layers=(), llama=_without_head(work.model))
        actions[name] = _forward(work)
        actions[f"{name}, no context"] = _forward(replace(work, context=0))
        actions[f"{name}, empty"] = _forward(replace(work, model=bare, context=0))
        actions[f"{name}, sampling"] = _sampling(work)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        for name, action in actions.items():
            times[name].append(action())
    least = {name: min(of[1:]) for name, of in times.items()}
    bandwidth = weight_bytes(target, 0) / least["read"]
    return {
        "context": context,
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
        "forwards": {name: _account(name, work, least, bandwidth) for name, work in works.items()},
    }


def weight_bytes(model: PortableModel, context: int) -> int:
    """Return the bytes of weights, keys and values that one forward has to read."""
    w, c = model.llama.weights, model.llama.config
    stacks = (w.attention_norm, w.qkv, w.attention_out, w.ffn_norm, w.gate, w.up, w.down)
    of_layers = sum(stack[0].nbytes for stack in stacks) * len(model.layers)
    of_cache = 2 * 4 * len(model.layers) * c.num_kv_heads * c.head_dim * context
    return of_layers + of_cache + w.final_norm.nbytes + w.head.nbytes


def _account(name: str, work: Work, least: dict[str, float], bandwidth: float) -> dict[str, float]:
    took, empty = least[name], least[f"{name}, empty"]
    bound = weight_bytes(work.model, work.context) / bandwidth
    attention = max(0.0, took - least[f"{name}, no context"])
    lost = {"python and launch": empty, "attention": attention}
    lost["arithmetic, norms, threads"] = took - bound - sum(lost.values())
    return {
        "ms": round(1e3 * took, 2),
        "bound_ms": round(1e3 * bound, 2),
        "share_of_bound": round(bound / took, 3),
        **{f"{what}, ms": round(1e3 * seconds, 2) for what, seconds in lost.items()},
        "sampling beside it, ms": round(1e3 * least[f"{name}, sampling"], 2),
    }


def _read(model: PortableModel) -> float:
    """Return the seconds in which all cores together add up the weights that a forward reads."""
    w = model.llama.weights
    parts = [
        part
        for stack in (w.qkv, w.attention_out, w.gate, w.up, w.down, w.head)
        for part in np.array_split(stack.reshape(-1), num_cpus())
    ]
    with ThreadPoolExecutor(num_cpus()) as pool:
        began_s = time.perf_counter()
        list(pool.map(np.max, parts))
        return time.perf_counter() - began_s


def _forward(work: Work) -> Callable[[], float]:
    cache = work.model.new_cache()
    if work.context:
        work.model.prefill([100 + i % 50 for i in range(work.context)], cache)
    token_ids = list(range(100, 100 + work.num_rows))

    def once() -> float:
        began_s = time.perf_counter()
        work.model.forward(token_ids, cache)
        took_s = time.perf_counter() - began_s
        cache.truncate(work.context)
        return took_s

    return once


def _sampling(work: Work) -> Callable[[], float]:
    token_ids = list(range(100, 100 + work.num_rows))
    logits = work.model.forward(token_ids, work.model.new_cache())
    rng = np.random.default_rng(0)

    def once() -> float:
        began_s = time.perf_counter()
        for row in logits:
            sample(Distribution.from_logits(row, SAMPLER).probs, rng)
        return time.perf_counter() - began_s

    return once


def _without_head(model: PortableModel):
    weights = model.llama.weights
    return replace(model.llama, weights=replace(weights, head=weights.head[:1]))


if __name__ == "__main__":
    main()
