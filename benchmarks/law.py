"""Is the law exact on real weights? Sampled output against the exact law, for every drafter.

    python -m benchmarks.law [--seeds 20000] [--drafts none ngram …] [--reference ours transformers]
                             [--log FILE] [--break argmax|resample|discard]

Each sample is one run of the engine, of which the first three tokens count. Their joint law is
compared with the exact one by Pearson's chi-square: every sequence that is expected at least five
times is a cell, the rest is pooled. The exact law is computed twice: from our own target's logits,
which tests the rule and the bookkeeping alone, and from those that transformers computes in float32
on the same folder (`pip install torch`), which tests the target too. Configurations are every
drafter (any by name, with the shape of its tree behind it: 'smollm2-draft 3-2-1') × K 1, 2, 3,
6 × temperature 0.4, 0.8, 1 × (no truncation, top-k 20, top-p 0.9), with seeds of their own;
`--seeds` of them for each drafter, spread evenly.

A row of logits is computed once and remembered by the tokens before it, which is the same to the
last bit on the portable backend; that it is, and that no cache is rolled back wrongly, is checked
by repeating seeds with nothing remembered (`--repeats`): they must give the same tokens.

Prints a line for each configuration and one JSON document. `power` is the total variation distance
that would have been seen with probability 0.99: for a distance d, Σ (p̂ − p)² / p is at least 4 d²
(Cauchy-Schwarz), the noncentrality per sample. The exit status is 1 if the p-values together
(Fisher) are below 0.001, which happens to an exact law once in a thousand runs of this program, or
if a repeat differs.
`--log` keeps each finished configuration in a file, from which a later call goes on. `--break` puts
one of three classic mistakes into drafter or rule, to show that it would be found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from os.path import commonprefix  # of any sequences
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from specdec.acceptance import Draft, Verdict, verify
from specdec.block import RULES
from specdec.drafters.base import Drafter, DrafterRun
from specdec.engine import RoundSettings, generate
from specdec.models.base import Inside, LanguageModel
from specdec.models.context import CachedContext
from specdec.pair import LoadedModel, load_model, make_drafter
from specdec.records import RoundResult, TokenStatus
from specdec.runs.machine import describe_environment
from specdec.sampling import Distribution, Sampler, sample
from specdec.settings import DEFAULT_MODEL
from specdec.targets.local import LocalTarget

PROMPT = "Name a colour and an animal."
DRAFTS = ("none", "ngram", "layer-skip", "smollm2-draft")
KS = (1, 2, 3, 6)
TEMPERATURES = (0.4, 0.8, 1.0)
TRUNCATIONS = ({}, {"top_k": 20}, {"top_p": 0.9})
LENGTH = 3
MIN_EXPECTED = 5
ALARM = 0.001
POWER = 0.99
REMEMBERED_ROWS = 15_000

Tokens = tuple[int, ...]
NextProbs = Callable[[Tokens], NDArray[np.float64]]


# -- the exact law --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """The law of sequences of `LENGTH` tokens over cells that each are likely enough.

    A cell is a whole sequence, or all sequences that leave a prefix by an unlikely token (the
    prefix and −1), or what is too rare even for that (None).
    """

    chances: dict[Tokens | None, float]
    prefixes: frozenset[Tokens]

    def cell(self, tokens: Sequence[int]) -> Tokens | None:
        """Return the cell that a sequence belongs to."""
        for end in range(1, LENGTH + 1):
            prefix = tuple(tokens[:end])
            if prefix in self.chances:
                return prefix
            if prefix not in self.prefixes:
                rest = (*prefix[:-1], -1)
                return rest if rest in self.chances else None
        raise AssertionError("a whole sequence is a cell or leaves the tree")


def exact_law(next_probs: NextProbs, min_chance: float) -> Law:
    """Return the law that `next_probs` (probabilities [vocab_size] after a prefix) fixes."""
    chances: dict[Tokens | None, float] = {}
    prefixes: set[Tokens] = set()
    pooled = 0.0

    def expand(prefix: Tokens, chance: float) -> None:
        nonlocal pooled
        prefixes.add(prefix)
        probs = next_probs(prefix)
        likely = np.flatnonzero(chance * probs >= min_chance)
        rest = chance * max(0.0, 1.0 - float(probs[likely].sum()))
        for token_id in likely.tolist():
            child = (*prefix, token_id)
            if len(child) == LENGTH:
                chances[child] = chance * float(probs[token_id])
            else:
                expand(child, chance * float(probs[token_id]))
        if rest >= min_chance:
            chances[*prefix, -1] = rest
        else:
            pooled += rest

    expand((), 1.0)
    if pooled < min_chance and chances:  # no cell of its own: it joins the rarest
        rarest = min(chances, key=chances.__getitem__)
        pooled += chances.pop(rarest)
    chances[None] = pooled
    return Law(chances, frozenset(prefixes))


@dataclass(frozen=True)
class Fit:
    """How well counts fit a law: Pearson's statistic, its degrees of freedom, its tail."""

    statistic: float
    freedom: int
    p: float


def fit(law: Law, samples: Sequence[Sequence[int]]) -> Fit:
    """Compare sampled sequences with their law."""
    counts = Counter(law.cell(tokens) for tokens in samples)
    expected = {cell: len(samples) * chance for cell, chance in law.chances.items()}
    impossible = sum(counts[cell] for cell in counts if expected.get(cell, 0.0) <= 0.0)
    if impossible:
        return Fit(float("inf"), max(1, len(expected) - 1), 0.0)
    statistic = sum((counts[c] - e) ** 2 / e for c, e in expected.items() if e > 0.0)
    freedom = sum(e > 0.0 for e in expected.values()) - 1
    p = float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0
    return Fit(float(statistic), freedom, p)


def together(fits: Sequence[Fit]) -> float:
    """Return the tail of all p-values together (Fisher 1925); the fits are independent."""
    tails = [max(one.p, 1e-300) for one in fits if one.freedom]
    return float(stats.combine_pvalues(tails).pvalue) if tails else 1.0


def visible_distance(fits: Sequence[Fit], num_samples: int) -> float:
    """Return the total variation distance that the sum of the statistics shows with `POWER`."""
    freedom = sum(one.freedom for one in fits)
    if not freedom:
        return 1.0  # too few samples to tell anything
    bound = stats.chi2.isf(ALARM, freedom)
    noncentrality = optimize.brentq(
        lambda shift: stats.ncx2.sf(bound, freedom, shift) - POWER, 1e-6, 1e6
    )
    return float(np.sqrt(noncentrality / (4 * num_samples)))


# -- rows, computed once ---------------------------------------------------------------------------


class Paths:
    """A cache that holds, for each slot, all the tokens up to it."""

    def __init__(self) -> None:
        self.paths: list[Tokens] = []

    @property
    def length(self) -> int:
        return len(self.paths)

    def truncate(self, length: int) -> None:
        del self.paths[length:]

    def gather(self, start: int, slots: Sequence[int]) -> None:
        self.paths[start:] = [self.paths[slot] for slot in slots]


@dataclass(frozen=True)
class Row:
    """What stands behind a path: logits [vocab_size], and the hidden states that were asked for."""

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]


class Remembering:
    """A language model that computes what stands behind a path once, whatever run asks for it.

    Whoever rolls its caches back wrongly gets the logits of the wrong path, as with any model.
    """

    supports_trees = True
    batch_invariant = True

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._real = CachedContext(model)
        self._rows: OrderedDict[Tokens, Row] = OrderedDict()
        self._layers: tuple[int, ...] = ()
        self.name, self.backend = model.name, model.backend
        self.vocab_size, self.context_length = model.vocab_size, model.context_length

    def new_cache(self) -> Paths:
        return Paths()

    def cannot_give(self, layers: tuple[int, ...], attention: bool) -> str | None:
        return self._model.cannot_give(layers, attention)

    def without_middle_layers(self) -> Remembering:
        return Remembering(self._model.without_middle_layers())

    def prefill(
        self, token_ids: Sequence[int], cache: Paths, *, inside: Inside | None = None
    ) -> None:
        first = cache.length
        paths = self._walk(token_ids, cache, None)
        if inside is not None and inside.layers:
            inside.add(first, np.stack([row.hidden for row in self._rows_of(paths, inside)]))

    def _walk(
        self, token_ids: Sequence[int], cache: Paths, parents: Sequence[int] | None
    ) -> list[Tokens]:
        """Append the fed tokens' paths to the cache and return them."""
        if parents is None:
            parents = range(-1, len(token_ids) - 1)
        num_earlier = len(parents) - len(token_ids)
        committed = len(cache.paths) - num_earlier
        root = cache.paths[committed - 1] if committed else ()
        nodes = cache.paths[committed:]
        for token_id, parent in zip(token_ids, parents[num_earlier:], strict=True):
            nodes.append((*(root if parent < 0 else nodes[parent]), token_id))
        cache.paths[committed:] = nodes
        return nodes[num_earlier:]

    def forward(
        self,
        token_ids: Sequence[int],
        cache: Paths,
        *,
        parents: Sequence[int] | None = None,
        inside: Inside | None = None,
    ) -> NDArray[np.float32]:
        first = cache.length
        rows = self._rows_of(self._walk(token_ids, cache, parents), inside)
        if inside is not None and inside.layers:
            inside.add(first, np.stack([row.hidden for row in rows]))
        return np.stack([row.logits for row in rows])

    def _rows_of(self, paths: Sequence[Tokens], inside: Inside | None) -> list[Row]:
        layers = inside.layers if inside is not None else ()
        if layers and layers != self._layers:
            self._layers = layers
            self._rows.clear()
        if not all(path in self._rows for path in paths):
            self._compute(paths)
        for path in paths:
            self._rows.move_to_end(path)
        rows = [self._rows[path] for path in paths]
        while len(self._rows) > REMEMBERED_ROWS:
            self._rows.popitem(last=False)
        return rows

    def _compute(self, paths: Sequence[Tokens]) -> None:
        """Score the paths as one tree behind what they have in common."""
        shared = commonprefix(paths)  # noqa: RUF071  (tuples of tokens, no file paths)
        context = shared[: min(map(len, paths)) - 1] or shared[:1]
        nodes: dict[Tokens, int] = {context: -1}
        ids: list[int] = []
        parents: list[int] = []
        for path in paths:
            for end in range(len(context) + 1, len(path) + 1):
                if path[:end] not in nodes:
                    parents.append(nodes[path[: end - 1]])
                    nodes[path[:end]] = len(ids)
                    ids.append(path[end - 1])
        draft = Draft(tuple(ids), tuple(parents), (None,) * len(ids))
        inside = Inside(self._layers)
        logits = self._real.score(list(context), draft, inside)
        hidden = inside.hidden[-len(logits) :] if self._layers else np.empty((len(logits), 0))
        for path, node in nodes.items():
            self._rows[path] = Row(logits[node + 1].copy(), hidden[node + 1].copy())

    def row(self, path: Tokens) -> NDArray[np.float32]:
        """Return the logits [vocab_size] after a path."""
        return self._rows_of([path], None)[0].logits


# -- mistakes, on purpose --------------------------------------------------------------------------


class Mistaken(Drafter, DrafterRun):
    """A drafter whose drafts another one makes, and `spoil` falsifies."""

    def __init__(self, inner: Drafter, spoil: Callable[[Draft], Draft]) -> None:
        self._inner, self._spoil = inner, spoil

    @property
    def name(self) -> str:
        return self._inner.name

    def start(self, prompt: Sequence[int]) -> DrafterRun:
        run = Mistaken(self._inner, self._spoil)
        run._run = self._inner.start(prompt)
        return run

    def propose(self, context, budget, sampler, rng, hidden=None) -> Draft:
        return self._spoil(self._run.propose(context, budget, sampler, rng, hidden))


def as_argmax(draft: Draft) -> Draft:
    """Take the likeliest token in place of the first one drawn, and still claim it was drawn."""
    first = draft.distributions[:1]
    return Draft.chain([int(one.probs.argmax()) for one in first if one is not None], first)


def without_unsure(draft: Draft) -> Draft:
    """Drop drawn tokens, from the first on, that the draft itself found unlikely."""
    kept = itertools.takewhile(
        lambda node: draft.distributions[node].probs[draft.token_ids[node]] > 0.3, range(len(draft))
    )
    count = len(list(kept))
    return Draft.chain(draft.token_ids[:count], draft.distributions[:count])


def resampling_from_p(draft, target_probs, rng) -> Verdict:
    """Verify, but draw from the target after a rejection, and not from the residual."""
    verdict = verify(draft, target_probs, rng)
    if verdict.final_status is not TokenStatus.RESAMPLED:
        return verdict
    row = target_probs[(verdict.path[-1] if verdict.path else -1) + 1]
    return replace(verdict, final_token=sample(row, rng))


MISTAKES = {"argmax": as_argmax, "discard": without_unsure, "resample": None}


# -- the whole sweep -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One configuration; `samples` of its seeds were run."""

    draft: str
    num_draft_tokens: int
    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    rule: str = "token"

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.temperature, self.top_k, self.top_p)


def cases(drafts: Sequence[str]) -> Iterator[Case]:
    """Yield every configuration, the drafters in turn."""
    for truncation, temperature, k in itertools.product(TRUNCATIONS, TEMPERATURES, KS):
        for draft in drafts:
            if draft != "none":
                yield Case(draft, k, temperature, **truncation)
            elif k == KS[0]:  # nothing is drafted, whatever K is
                yield Case(draft, 0, temperature, **truncation)


class Bench:
    """The models, remembered and real, and what is sampled from them."""

    def __init__(self, target: str, prompt: str, mistake: str | None = None) -> None:
        load = cache(load_model)
        self._load = load
        self._loaded = load(target, "portable")
        self.folder_name = target
        self.prompt = self._loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}]
        )
        self._mistake = mistake
        self.remembering = Remembering(self._loaded.model)
        self._drafters: dict[tuple[str, bool], Drafter] = {}

    def drafter(self, name: str, *, remembers: bool) -> Drafter:
        key = (name, remembers)
        if key not in self._drafters:
            draft, _, tree = name.partition(" ")
            target = self._loaded
            load = self._load
            if remembers:
                target, load = replace(target, model=self.remembering), self._load_to_remember
            drafter = make_drafter(draft, target, "portable", load, tree=tree)
            spoil = MISTAKES.get(self._mistake or "")
            self._drafters[key] = drafter if spoil is None else Mistaken(drafter, spoil)
        return self._drafters[key]

    def _load_to_remember(self, name: str, place: str) -> LoadedModel:
        loaded = self._load(name, place)
        return loaded if loaded.model is None else replace(loaded, model=Remembering(loaded.model))

    def sample(self, case: Case, seed: int, *, remembers: bool = True) -> Tokens:
        """Run the engine and return the first tokens it writes."""
        drafter = self.drafter(case.draft, remembers=remembers)
        target = LocalTarget(self.remembering if remembers else self._loaded.model)
        rule = resampling_from_p if self._mistake == "resample" else RULES[case.rule]
        settings = RoundSettings(drafter, case.num_draft_tokens, case.sampler, rule=rule)
        tokens: list[int] = []
        limit = LENGTH + max(KS) + 1  # no draft is cut short
        events = generate(self.prompt, target, settings, max_tokens=limit, seed=seed)
        with closing(events):
            for event in events:
                if isinstance(event, RoundResult):
                    tokens += event.emitted
                    if len(tokens) >= LENGTH:
                        break
        return tuple(tokens[:LENGTH])

    def our_probs(self, sampler: Sampler) -> NextProbs:
        """Return the target's own law after a prefix, by our logits."""
        return lambda prefix: (
            Distribution.from_logits(
                self.remembering.row((*self.prompt, *prefix)).astype(np.float64), sampler
            ).probs
        )

    def transformers_probs(self, sampler: Sampler) -> NextProbs:
        """Return the target's own law after a prefix, by the logits of transformers."""
        row = _transformers_rows(self.folder_name)
        return lambda prefix: (
            Distribution.from_logits(row((*self.prompt, *prefix)).astype(np.float64), sampler).probs
        )


@cache
def _transformers_rows(name: str) -> Callable[[Tokens], NDArray[np.float32]]:
    """Return what transformers computes in float32 on the same folder, one context at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    from specdec.models.fetch.hub import resolve

    model = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=torch.float32).eval()

    @cache
    def row(context: Tokens) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.tensor([context])).logits[0, -1].numpy()

    return row


def run_case(
    bench: Bench, case: Case, seeds: range, references: Sequence[str], repeats: int
) -> dict[str, object]:
    """Sample one configuration and compare it with the exact laws."""
    samples = [bench.sample(case, seed) for seed in seeds]
    repeated = seeds[: min(repeats, len(seeds))]
    differing = sum(
        bench.sample(case, seed, remembers=False) != samples[seed - seeds.start]
        for seed in repeated
    )
    found = asdict(case) | {"samples": len(samples), "repeated": len(repeated)}
    fits = {}
    for reference in references:
        probs = getattr(bench, f"{'our' if reference == 'ours' else reference}_probs")
        law = exact_law(probs(case.sampler), MIN_EXPECTED / len(samples))
        fits[reference] = asdict(fit(law, samples))
    return found | {"differing": differing, "fits": fits}


def summed_up(results: Sequence[dict], references: Sequence[str]) -> dict[str, object]:
    """Put the configurations together, by drafter and over all."""
    report: dict[str, object] = {}
    groups = {"all": results} | {
        draft: [r for r in results if r["draft"] == draft]
        for draft in {r["draft"] for r in results}
    }
    for name, group in groups.items():
        samples = sum(r["samples"] for r in group)
        report[name] = {"samples": samples} | {
            reference: {
                "p": together(fits := [Fit(**r["fits"][reference]) for r in group]),
                "smallest p": min(one.p for one in fits),
                "of": len(fits),
                "power": visible_distance(fits, samples),
            }
            for reference in references
        }
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="for each drafter")
    parser.add_argument("--drafts", nargs="+", default=DRAFTS)
    parser.add_argument("--target", default=DEFAULT_MODEL)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--reference", nargs="+", default=["ours", "transformers"])
    parser.add_argument("--repeats", type=int, default=10, help="for each configuration")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--break", dest="mistake", choices=MISTAKES)
    options = parser.parse_args()

    bench = Bench(options.target, options.prompt, options.mistake)
    repeats = 0 if options.mistake else options.repeats
    results: list[dict] = []
    if options.log and options.log.exists():
        results = [json.loads(line) for line in options.log.read_text().splitlines()]
    done = {Case(**{f: r[f] for f in Case.__dataclass_fields__ if f in r}) for r in results}
    first_seed, began_s = 0, time.monotonic()
    for case in cases(options.drafts):
        count = options.seeds // (sum(c.draft == case.draft for c in cases(options.drafts)))
        seeds = range(first_seed, first_seed + count)
        first_seed += count
        if case in done:
            continue
        results.append(run_case(bench, case, seeds, options.reference, repeats))
        if options.log:
            with options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1]) + "\n")
        tails = ", ".join(f"{n} {f['p']:.3g}" for n, f in results[-1]["fits"].items())
        print(f"{time.monotonic() - began_s:6.0f} s  {case}: {tails}", file=sys.stderr, flush=True)
    report = summed_up(results, options.reference)
    differing = sum(r["differing"] for r in results)
    print(
        json.dumps(
            {
                "prompt": options.prompt,
                "alarm": ALARM,
                "summary": report,
                "repeated with nothing remembered": sum(r["repeated"] for r in results),
                "of these, differing": differing,
                "configurations": results,
                "environment": describe_environment(),
            },
            indent=1,
        )
    )
    is_off = any(report["all"][reference]["p"] < ALARM for reference in options.reference)
    return 1 if is_off or differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
