"""The plan of a sweep: a small TOML file that says what is compared, on what, and for how long.

    name = "our support chat"
    target = "smollm2-135m"
    drafts = ["smollm2-draft", "ngram", "layer-skip"]
    k = [1, 2, 3, 4, 6]
    temperatures = [0.0, 0.7]
    rtt_ms = [0, 50]
    max_tokens = 64
    budget_minutes = 120

    [prompts]
    classes = ["code", "prose"]
    per_class = 2
    file = "questions.jsonl"

    [[strategies]]              # beside the plain chains of `drafts`
    draft = "smollm2-draft"
    tree = "3-2-1"
    k = [3]

A cell is one run: a prompt, an arm (what drafts, how, and K), a temperature, a link, a seed. Plain
decoding is an arm of every plan. What a plan means is in `cells`; nothing else decides it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from specdec.block import TOKEN_RULE
from specdec.errors import SettingsError
from specdec.lab.prompts import MAX_PROMPTS, Prompt, built_in, read_prompts
from specdec.records import FIXED_POLICY
from specdec.settings import DEFAULT_MODEL, TRAINED_DRAFTS, RunConfig

MAX_CELLS = 100_000
MAX_PLAN_BYTES = 2**20
PLAIN = "none"


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
        prompt = hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16]
        return json.dumps(
            {
                "prompt": prompt,
                "class": self.prompt.kind,
                **asdict(self.arm),
                "temperature": self.temperature,
                "rtt_ms": self.rtt_ms,
                "seed": self.seed,
            },
            ensure_ascii=False,
        )


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
        for name in ("name", "budget_minutes", "stops_early"):
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


# -- reading -------------------------------------------------------------------------------------


def read_plan(path: Path) -> Plan:
    """Return the plan in a file; the file of prompts it names is looked for beside it.

    Raises:
        SettingsError: it cannot be read or used; the message says which value.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PLAN_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8: save it in that encoding.") from None
    try:
        return parse_plan(text, beside=path.parent)
    except SettingsError as error:
        raise SettingsError(f"{path.name}: {error}") from None


def parse_plan(text: str, *, beside: Path) -> Plan:
    """Return the plan in `text`; relative names of files start at `beside`.

    Raises:
        SettingsError: it is no TOML, or no plan.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"it is no TOML: {error}.") from None
    reader = _Reader(values, "the plan")
    target = reader.text("target", DEFAULT_MODEL)
    ks = reader.numbers("k", int, (1, 2, 3, 4, 6))
    drafts = reader.texts("drafts", _default_drafts(target))
    strategies = [Strategy(draft, ks) for draft in drafts]
    strategies += [_strategy(one, ks) for one in reader.tables("strategies")]
    prompts = _prompts(reader.table("prompts"), beside)
    plan = partial(
        Plan,
        prompts=tuple(prompts),
        strategies=tuple(strategies),
        target=target,
        backend=reader.text("backend", "auto"),
        temperatures=reader.numbers("temperatures", float, (0.0,)),
        rtt_ms=reader.numbers("rtt_ms", float, (0.0,)),
        seeds=reader.numbers("seeds", int, (0,)),
        max_tokens=reader.whole("max_tokens", 64),
        budget_minutes=reader.number("budget_minutes", None),
        stops_early=reader.flag("stops_early", default=True),
        name=reader.text("name", ""),
    )
    reader.finish()
    return plan()


def _default_drafts(target: str) -> tuple[str, ...]:
    trained = TRAINED_DRAFTS.get(target)
    return (*((trained,) if trained else ()), "ngram")


def _strategy(reader: _Reader, ks: tuple[int, ...]) -> Strategy:
    made = Strategy(
        reader.text("draft"),
        reader.numbers("k", int, ks),
        reader.text("tree", ""),
        reader.text("policy", FIXED_POLICY),
        reader.text("rule", TOKEN_RULE),
    )
    reader.finish()
    return made


def _prompts(reader: _Reader, beside: Path) -> list[Prompt]:
    file = reader.text("file", "")
    kinds = reader.texts("classes", () if file else ("code", "prose"))
    per_class = reader.whole("per_class", 2)
    if per_class < 1:
        raise SettingsError("per_class must be 1 or more.")
    reader.finish()
    return built_in(kinds, per_class) + (read_prompts(beside / file) if file else [])


_MISSING = object()


@dataclass(slots=True)
class _Reader:
    """A TOML table from which every value is taken once, checked; what is left is a mistake."""

    values: Mapping[str, Any]
    place: str
    taken: set[str] = field(default_factory=set)

    def _take(self, name: str, default: Any) -> Any:
        self.taken.add(name)
        value = self.values.get(name, default)
        if value is _MISSING:
            raise SettingsError(f"{name} is missing in {self.place}.")
        return value

    def _wrong(self, name: str, wanted: str, value: Any) -> SettingsError:
        return SettingsError(f"{name} must be {wanted}, not {value!r:.60}.")

    def text(self, name: str, default: Any = _MISSING) -> str:
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a text", value)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def number(self, name: str, default: float | None) -> float | None:
        value = self._take(name, default)
        if value is None:
            return None
        return float(_number(value, float, self._wrong(name, "a number", value)))

    def whole(self, name: str, default: int) -> int:
        value = self._take(name, default)
        return int(_number(value, int, self._wrong(name, "a whole number", value)))

    def numbers(self, name: str, kind: type, default: Sequence[Any]) -> tuple[Any, ...]:
        value = self._take(name, list(default))
        values = value if isinstance(value, list) else [value]
        wrong = self._wrong(name, "a number, or a list of different ones", value)
        found = tuple(_number(one, kind, wrong) for one in values)
        if not found or len(set(found)) < len(found):
            raise wrong
        return found

    def texts(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        value = self._take(name, list(default))
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values) or len(set(values)) < len(values):
            raise self._wrong(name, "a list of different texts", value)
        return tuple(values)

    def table(self, name: str) -> _Reader:
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, f"a table, written as [{name}]", value)
        return _Reader(value, f"[{name}]")

    def tables(self, name: str) -> list[_Reader]:
        value = self._take(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self._wrong(name, f"tables, each written as [[{name}]]", value)
        return [_Reader(one, f"[[{name}]]") for one in value]

    def finish(self) -> None:
        """Refuse what nobody asked for: most likely a name with a typing mistake."""
        unknown = [name for name in self.values if name not in self.taken]
        if unknown:
            raise SettingsError(
                f"there is no {unknown[0]!r:.60} in {self.place}; there is "
                f"{', '.join(sorted(self.taken))}."
            )


def _number(value: Any, kind: type, wrong: SettingsError) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and not isinstance(value, int)):
        raise wrong
    if not abs(value) < 1e18:  # NaN compares false
        raise wrong
    return kind(value)
