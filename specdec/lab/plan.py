"""The plan of a sweep: what is compared, on what, and for how long.

A cell is one run: a prompt, an arm (what drafts, how, and K), a temperature, a link, a seed. Plain
decoding is an arm of every plan. What a plan means is in `cells`; nothing else decides it. As a
file it is read and written by `specdec.lab.plan_file`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import product

from specdec.block import TOKEN_RULE
from specdec.drafters.recall import RecallDrafter
from specdec.errors import SettingsError
from specdec.lab.prompts import MAX_PROMPTS, Prompt
from specdec.records import FIXED_POLICY
from specdec.settings import DEFAULT_MODEL, RunConfig, is_endpoint

MAX_CELLS = 100_000
PLAIN = "none"
OWN_SERVER = "server"
"""The draft of a target behind a server that streams by itself, speculating or not."""
_NO_PART_OF_CELLS = ("name", "budget_minutes", "stops_early", "predicts", "file", "num_from_file")


@dataclass(frozen=True, slots=True)
class Arm:
    """What is compared with what: one way of drafting; plain decoding drafts nothing."""

    draft: str
    num_draft_tokens: int
    tree: str = ""
    policy: str = FIXED_POLICY
    rule: str = TOKEN_RULE

    @property
    def is_plain(self) -> bool:
        return self.draft == PLAIN

    @property
    def label(self) -> str:
        """Return the arm's name without K."""
        if self.draft == OWN_SERVER:
            return "the server's own streaming"
        parts = [self.draft, self.tree and f"tree {self.tree}"]
        parts += [self.policy if self.policy != FIXED_POLICY else ""]
        parts += [f"{self.rule} rule" if self.rule != TOKEN_RULE else ""]
        return "plain decoding" if self.is_plain else ", ".join(part for part in parts if part)


PLAIN_ARM = Arm(PLAIN, 0)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep. `key` names it for ever: the same cell is never measured twice."""

    prompt: Prompt
    arm: Arm
    temperature: float
    rtt_ms: float
    seed: int

    @property
    def key(self) -> str:
        """Return the cell as one line of JSON."""
        return _key_of(self)


@lru_cache(maxsize=MAX_CELLS)
def _key_of(cell: Cell) -> str:
    """Name a cell; a page asks for all of them again and again."""
    arm = cell.arm
    facts = {
        "prompt": cell.prompt.mark,
        "class": cell.prompt.kind,
        "draft": arm.draft,
        "num_draft_tokens": arm.num_draft_tokens,
        "tree": arm.tree,
        "policy": arm.policy,
        "rule": arm.rule,
        "temperature": cell.temperature,
        "rtt_ms": cell.rtt_ms,
        "seed": cell.seed,
    }
    return json.dumps(facts, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Strategy:
    """Arms that share everything but K."""

    draft: str
    k: tuple[int, ...]
    tree: str = ""
    policy: str = FIXED_POLICY
    rule: str = TOKEN_RULE

    @property
    def arms(self) -> list[Arm]:
        if self.draft == OWN_SERVER:  # which has a K of its own
            return [Arm(OWN_SERVER, 0)]
        return [Arm(self.draft, k, self.tree, self.policy, self.rule) for k in self.k]


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep, checked.

    Attributes:
        prompts: what is asked, each with its class.
        strategies: what drafts, and with which K.
        target: decides.
        backend: runs the models.
        temperatures: each is a condition of its own.
        rtt_ms: emulated round trips, likewise.
        seeds: of the runs; the same for every arm.
        max_tokens: the most tokens of a run.
        budget_minutes: after which no new cell begins; None for no limit.
        stops_early: whether conditions are left whose best arm is beyond doubt.
        name: shown; it changes nothing.
        predicts: whether each strategy is measured at its largest K and over the shortest link
            only, and the rest is predicted from that, but for a tenth that is measured to check.
        file: what brought the last `num_from_file` prompts, for a plan that is written again.
        num_from_file: see `file`.
    """

    prompts: tuple[Prompt, ...]
    strategies: tuple[Strategy, ...]
    target: str = DEFAULT_MODEL
    backend: str = "auto"
    temperatures: tuple[float, ...] = (0.0,)
    rtt_ms: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)
    max_tokens: int = 64
    budget_minutes: float | None = None
    stops_early: bool = True
    name: str = ""
    predicts: bool = False
    file: str = field(default="", compare=False)
    num_from_file: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise SettingsError("The plan has no prompts: name classes, a file or both.")
        if len(self.prompts) > MAX_PROMPTS:
            raise SettingsError(f"The plan has more than {MAX_PROMPTS:,} prompts.")
        if len({prompt.text for prompt in self.prompts}) < len(self.prompts):
            raise SettingsError("The plan has the same prompt twice.")
        if self.budget_minutes is not None and not self.budget_minutes > 0:
            raise SettingsError("budget_minutes must be more than 0.")
        if self.num_cells > MAX_CELLS:
            raise SettingsError(
                f"The plan has {self.num_cells:,} cells, and more than {MAX_CELLS:,} are too many: "
                "take fewer prompts, arms or conditions."
            )
        if any(arm.draft == OWN_SERVER for arm in self.arms) and not is_endpoint(self.target):
            raise SettingsError(
                f"The draft {OWN_SERVER!r} is a server's own streaming, and {self.target!r:.60} is "
                "no server."
            )
        if any(RecallDrafter.name in re.split("[+|]", arm.draft) for arm in self.arms):
            raise SettingsError(
                f"{RecallDrafter.name} would copy what the sweep itself wrote in the cell before; "
                "take ngram."
            )
        for arm, temperature, rtt_ms in product(self.arms, self.temperatures, self.rtt_ms):
            self.config(Cell(self.prompts[0], arm, temperature, rtt_ms, self.seeds[0]))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Plain decoding and whatever is compared with it, none twice."""
        arms = [arm for strategy in self.strategies for arm in strategy.arms]
        return tuple(dict.fromkeys([PLAIN_ARM, *(arm for arm in arms if not arm.is_plain)]))

    @property
    def num_cells(self) -> int:
        conditions = len(self.temperatures) * len(self.rtt_ms) * len(self.seeds)
        return len(self.prompts) * conditions * len(self.arms)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, in the order of the plan."""
        axes = product(self.prompts, self.temperatures, self.rtt_ms, self.seeds, self.arms)
        return [Cell(prompt, arm, t, rtt, seed) for prompt, t, rtt, seed, arm in axes]

    @property
    def digest(self) -> str:
        """Return what tells one sweep from another: all that its cells depend on."""
        facts = asdict(self)
        for name in _NO_PART_OF_CELLS:
            del facts[name]
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def config(self, cell: Cell) -> RunConfig:
        """Return the settings of one cell's run.

        Raises:
            SettingsError: they cannot be used.
        """
        arm = cell.arm
        return RunConfig(
            target=self.target,
            draft=arm.draft,
            backend=self.backend,
            num_draft_tokens=arm.num_draft_tokens,
            temperature=cell.temperature,
            max_tokens=self.max_tokens,
            seed=cell.seed,
            rtt_ms=cell.rtt_ms,
            policy=arm.policy,
            tree=arm.tree,
            rule=arm.rule,
        )
