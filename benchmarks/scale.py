"""What grows with the length of a run: `python -m benchmarks.scale [--small]`.

- Decoding after 512, 2,048 and 8,000 tokens of context: tokens/s plain and with the default draft,
  the bytes of keys and values, the memory of the process.
- A run of 512, 2,048 and 8,192 tokens over a toy model: to be saved, opened, shown frame by frame,
  drawn once more at its end, and compared with another, in milliseconds of the processor.

Prints one JSON document; `--small` takes a tiny model and short runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from specdec import RunConfig, generate
from specdec.models.portable import PortableModel
from specdec.pair import Pair, load_model, make_pair
from specdec.records import Prefilled, RoundResult, RunSummary
from specdec.runs.compare import first_divergence, kpi_table
from specdec.runs.diff import diff_runs
from specdec.runs.machine import describe_environment
from specdec.runs.replay import frames_of
from specdec.runs.run import Run
from specdec.saved.store import RunStore
from specdec.settings import DEFAULT_MODEL
from specdec.targets.local import LocalTarget
from specdec.view import charts
from specdec.view.run_view import RunView
from specdec.view.window import live_picture
from tests.made_runs import tiny_run
from tests.models.tiny import write_tiny_llama

Value = TypeVar("Value")
CONTEXTS, LENGTHS = (512, 2048, 8000), (512, 2048, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=48, help="written after each context")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.small:
            target = str(write_tiny_llama(folder / "tiny"))
            decoded = decoding(target, "layer-skip", (16, 64), 8, 1)
            lengths: Sequence[int] = (32, 64)
        else:
            decoded = decoding(DEFAULT_MODEL, "auto", CONTEXTS, asked.tokens, asked.repeats)
            lengths = LENGTHS
        report = {"decoding": decoded, "runs": long_runs(folder, lengths)}
    print(json.dumps(report | {"environment": describe_environment()}, indent=1))


def decoding(
    target: str, draft: str, contexts: Sequence[int], num_tokens: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Decode after contexts of these lengths, plain and drafted in turn; the faster of repeats."""
    load = cache(load_model)
    configs = {
        "plain": RunConfig(target, draft="none", num_draft_tokens=0, backend="portable"),
        "drafted": RunConfig(target, draft=draft, backend="portable"),
    }
    pairs = {name: make_pair(config, load) for name, config in configs.items()}
    found: dict[str, dict[str, float]] = {}
    for length in contexts:
        prompt = _prompt(pairs["plain"], length)
        speeds: dict[str, float] = {}
        for _ in range(repeats):
            for name, pair in pairs.items():
                read_s, wall_s, state = _decode(pair, configs[name], prompt, num_tokens)
                speed = num_tokens / wall_s
                speeds[name] = max(speed, speeds.get(name, 0.0))
        found[f"{length} tokens"] = {
            **{f"{name}, tokens/s": round(speed, 2) for name, speed in speeds.items()},
            "prompt read, s": round(read_s, 2),
            "keys and values, MB": round(state / 1e6, 3),
            "peak of the process, MB": round(_peak_mb()),
        }
    return found


def _prompt(pair: Pair, length: int) -> list[int]:
    """Return a prompt of so many tokens: a text that goes on and on."""
    text = "The keeper climbed the stairs, lit the lamp, and wrote down what the sea had brought. "
    ids = pair.tokenizer.encode(text)
    return (ids * (length // len(ids) + 1))[:length]


def _decode(
    pair: Pair, config: RunConfig, prompt: Sequence[int], num_tokens: int
) -> tuple[float, float, int]:
    """Return the seconds of reading and of writing, and the bytes of the target's state."""
    settings = pair.round_settings(config)
    read_s, rounds = 0.0, list[RoundResult]()
    for event in generate(prompt, pair.target, settings, max_tokens=num_tokens):
        if isinstance(event, Prefilled):
            read_s = event.prefill_s
        elif isinstance(event, RoundResult):
            rounds.append(event)
        elif isinstance(event, RunSummary) and event.error:
            raise RuntimeError(event.error)
    state = _state_bytes(pair) * (len(prompt) + num_tokens)
    return read_s, sum(r.wall_s for r in rounds), state


def _state_bytes(pair: Pair) -> int:
    """Return the bytes of keys and values that the target keeps for one token."""
    assert isinstance(pair.target, LocalTarget)
    assert isinstance(pair.target.model, PortableModel)
    config = pair.target.model.llama.config
    return 2 * 4 * config.num_layers * config.num_kv_heads * config.head_dim


def long_runs(folder: Path, lengths: Sequence[int]) -> dict[str, dict[str, float]]:
    """Save, open, show and compare runs of these lengths."""
    found = {}
    with closing(RunStore(folder / "runs.db")) as store:
        for length in lengths:
            made = folder / f"run {length}"
            made.mkdir()
            found[f"{length} tokens"] = _one_run(store, tiny_run(made, num_tokens=length, k=4))
    return found


def _one_run(store: RunStore, run: Run) -> dict[str, float]:
    figures: dict[str, float] = {"rounds": len(run.rounds)}

    def timed(name: str, action: Callable[[], Value]) -> Value:
        began_s = time.process_time()  # of one thread: what else runs does not count
        value = action()
        figures[f"{name}, ms"] = round(1e3 * (time.process_time() - began_s), 1)
        return value

    run_id = timed("save", lambda: store.save(run))
    opened = timed("open", lambda: store.load(run_id))
    frames = timed("make frames", lambda: frames_of(opened))
    view = RunView(opened.token_text)

    def show() -> None:
        for frame in frames:
            view.push(frame)

    timed("show all frames", show)
    timed("redraw the end", lambda: _draw(view))
    changed = replace(opened, prompt="another")
    differences = timed("diff", lambda: diff_runs(opened, changed))
    assert not differences.rounds
    timed("compare", lambda: (kpi_table([opened, changed]), first_divergence(opened, changed)))
    return figures


def _draw(view: RunView) -> None:
    """Make what the page redraws while a run goes on: the text's end, the tree, the latencies."""
    view.text.tail()
    live_picture(view.rounds, None, view.text_of)
    charts.latency_data(view.rounds)


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
