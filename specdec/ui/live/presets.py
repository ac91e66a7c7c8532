"""Prompts to press and links to choose: what a visitor can try without typing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from specdec.records import FIXED_POLICY
from specdec.settings import RunConfig

EXAMPLE_PROMPTS: Mapping[str, str] = {
    "Explain": "Explain why the sky is blue and why sunsets are red.",
    "Code": "Write a Python function that returns whether a number is prime.",
    "Prose": "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "List": "List ten things to check before leaving on a bicycle tour, with a reason for each.",
    "Summary": (
        "Summarise the following text in two sentences.\n\n"
        "The first bicycles had no pedals: a rider sat astride a wooden beam between two wheels "
        "and pushed the ground away with the feet. Pedals came in the 1860s, fixed to the front "
        "wheel, and so the front wheel grew, because a larger wheel went further at each turn. "
        "A fall from such a height was a serious matter. The chain, which lets the pedals turn "
        "the rear wheel at a higher speed, brought the rider down again in the 1880s, and the "
        "air-filled tyre, a few years later, made the ride bearable on the roads of the time."
    ),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A prompt with settings that show something.

    Attributes:
        prompt: the name of an example.
        sets: fields of `RunConfig`, the same ones in every recipe; `rtt_ms` is one of `LINKS`.
        look_at: what there is to see, in words.
    """

    prompt: str
    sets: Mapping[str, Any]
    look_at: str

    def on(self, config: RunConfig) -> RunConfig:
        """Return `config` with what the recipe sets."""
        return replace(config, **self.sets)

    def is_set(self, config: RunConfig, prompt: str) -> bool:
        """Say whether these are its settings and its prompt."""
        return prompt == EXAMPLE_PROMPTS[self.prompt] and self.on(config) == config


RECIPES: Mapping[str, Recipe] = {
    "Where it pays": Recipe(
        "Code",
        {"num_draft_tokens": 6, "temperature": 0.0, "rtt_ms": 50.0, "policy": "adaptive"},
        look_at="Code at temperature 0, over an emulated link of 50 ms, K as the run itself "
        "predicts. Look at the tokens per target call: a call costs the link once, however much "
        "it checks.",
    ),
    "Where it does not": Recipe(
        "Prose",
        {"num_draft_tokens": 8, "temperature": 1.0, "rtt_ms": 0.0, "policy": FIXED_POLICY},
        look_at="Prose at temperature 1, without a link, K = 8. Look at the rejected tokens: "
        "drafting and checking them takes longer than the calls that it saves.",
    ),
}
OPENING = RECIPES["Where it pays"]
"""What the page opens on."""


def opening(defaults: RunConfig) -> RunConfig:
    """Return what the page begins with: `defaults`, of `.env`, and the first recipe.

    Who set something of it in `.env`, or a server as the target, meant that.
    """
    usual = RunConfig()
    asked = any(getattr(defaults, name) != getattr(usual, name) for name in OPENING.sets)
    return defaults if asked or defaults.is_remote else OPENING.on(defaults)


LINKS: Mapping[str, float] = {
    "this machine (0 ms)": 0.0,
    "same city (10 ms)": 10.0,
    "edge to cloud (50 ms)": 50.0,
    "far (150 ms)": 150.0,
}
"""Round trips of the emulated link in milliseconds; the names stand in shared URLs."""

TREES: Mapping[str, str] = {
    "chain": "",
    "tree 2-2-1": "2-2-1",
    "tree 3-2-1": "3-2-1",
    "tree 4-2-1-1": "4-2-1-1",
    "auto tree": "auto",
    "best tree": "best",
}
"""Shapes of a draft as `RunConfig.tree` has them; the names stand in shared URLs."""

MOTIONS = (LIVE, SLOW, STEP) = ("Live", "Slow motion", "Step")
"""How events are shown: as they come, in even beats, or a beat at a press of a key."""
