"""The configurations, what is sampled from each, and what came of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.law.exact import (
    LENGTH,
    Fit,
    NextProbs,
    Tokens,
    exact_law,
    fit,
    together,
    visible_distance,
)
from benchmarks.law.mistakes import MISTAKES, Mistaken, resampling_from_p
from benchmarks.law.remembering import Remembering
from specdec.block import RULES
from specdec.drafters.base import Drafter
from specdec.engine import RoundSettings, generate
from specdec.pair import LoadedModel, load_model, make_drafter
from specdec.records import RoundResult
from specdec.sampling import Distribution, Sampler
from specdec.targets.local import LocalTarget

PROMPT = "Name a colour and an animal."
KS = (1, 2, 3, 6)
TEMPERATURES = (0.4, 0.8, 1.0)
TRUNCATIONS = ({}, {"top_k": 20}, {"top_p": 0.9})
MIN_EXPECTED = 5


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
