"""A plan as a small TOML file, read with every mistake named, and written.

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

[[prompts.given]]           # or prompts in the plan itself
prompt = "What is a tide?"
class = "question"

[[strategies]]              # beside the plain chains of `drafts`
draft = "smollm2-draft"
tree = "3-2-1"
k = [3]
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specdec.block import TOKEN_RULE
from specdec.errors import SettingsError
from specdec.lab.plan import Plan, Strategy
from specdec.lab.prompts import (
    CLASSES,
    OWN,
    Prompt,
    built_in,
    checked_prompt,
    parse_prompts,
    read_prompts,
)
from specdec.records import FIXED_POLICY
from specdec.settings import DEFAULT_MODEL, TRAINED_DRAFTS, TRAINED_HEADS

MAX_PLAN_BYTES = 2**20


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


def parse_plan(
    text: str, *, beside: Path | None = None, uploaded: Mapping[str, bytes] | None = None
) -> Plan:
    """Return the plan in `text`.

    Args:
        text: TOML.
        beside: where relative names of files start; None where no file of this machine is read.
        uploaded: files by name, which come first.

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

    def read(name: str) -> list[Prompt]:
        if name in (uploaded or {}):
            return parse_prompts(name, (uploaded or {})[name])
        if beside is None:
            raise SettingsError(f"the file of prompts {name!r:.60} is not here: upload it.")
        return read_prompts(beside / name)

    table = reader.table("prompts")
    prompts, file = _prompts(table), table.text("file", "")
    of_file = read(file) if file else []
    fields = dict[str, Any](
        prompts=(*prompts, *of_file),
        file=file,
        num_from_file=len(of_file),
        strategies=tuple(strategies),
        target=target,
        backend=reader.text("backend", "auto"),
        temperatures=reader.numbers("temperatures", float, (0.0,)),
        rtt_ms=reader.numbers("rtt_ms", float, (0.0,)),
        seeds=reader.numbers("seeds", int, (0,)),
        max_tokens=reader.whole("max_tokens", 64),
        budget_minutes=reader.number("budget_minutes", None),
        stops_early=reader.flag("stops_early", default=True),
        predicts=reader.flag("predict", default=False),
        name=reader.text("name", ""),
    )
    reader.finish()  # a name with a typing mistake comes before what it left at its default
    return Plan(**fields)


def _default_drafts(target: str) -> tuple[str, ...]:
    trained = [of[target] for of in (TRAINED_HEADS, TRAINED_DRAFTS) if target in of]
    return (*trained, "ngram")


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


def _prompts(reader: _Reader) -> list[Prompt]:
    file = reader.text("file", "")
    given = [_given(one, number) for number, one in enumerate(reader.tables("given"), start=1)]
    kinds = reader.texts("classes", () if file or given else ("code", "prose"))
    per_class = reader.whole("per_class", 2)
    if per_class < 1:
        raise SettingsError("per_class must be 1 or more.")
    reader.finish()
    return built_in(kinds, per_class) + given


def _given(reader: _Reader, number: int) -> Prompt:
    text, kind = reader.text("prompt"), reader.text("class", OWN)
    reader.finish()
    return checked_prompt(text, kind, f"prompt {number} of [[prompts.given]]")


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


# -- writing -------------------------------------------------------------------------------------


def write_plan(plan: Plan, *, keeps_file: bool = False) -> str:
    """Return a plan as TOML.

    Args:
        plan: what it says.
        keeps_file: whether the file of prompts is named; else its prompts stand in the plan, which
            is complete in itself.
    """
    file = plan.file if keeps_file else ""
    prompts = plan.prompts[: -plan.num_from_file] if file else plan.prompts
    chains, others = split_strategies(plan.strategies)
    lines = [
        f"name = {_quoted(plan.name)}",
        f"target = {_quoted(plan.target)}",
        f"backend = {_quoted(plan.backend)}",
        f"drafts = {_listed([_quoted(one.draft) for one in chains])}",
        f"k = {_listed(chains[0].k if chains else [1])}",
        f"temperatures = {_listed(plan.temperatures)}",
        f"rtt_ms = {_listed(plan.rtt_ms)}",
        f"seeds = {_listed(plan.seeds)}",
        f"max_tokens = {plan.max_tokens}",
    ]
    if plan.budget_minutes is not None:
        lines.append(f"budget_minutes = {plan.budget_minutes:g}")
    lines.append(f"stops_early = {str(plan.stops_early).lower()}")
    if plan.predicts:
        lines.append("predict = true")
    return "\n".join([*lines, *_prompt_lines(prompts, file), *_strategy_lines(others), ""])


def split_strategies(
    strategies: Sequence[Strategy],
) -> tuple[list[Strategy], list[Strategy]]:
    """Return the plain chains that share the first one's K, and whatever else drafts."""
    plain = [one for one in strategies if Strategy(one.draft, one.k) == one]
    chains = [one for one in plain if one.k == plain[0].k]
    if len({one.draft for one in chains}) < len(chains):
        chains = []
    return chains, [one for one in strategies if one not in chains]


def split_prompts(prompts: Sequence[Prompt]) -> tuple[list[str], int, list[Prompt]]:
    """Return of which built-in classes the first ones are, how many of each, and the others."""
    kinds = [kind for kind in dict.fromkeys(one.kind for one in prompts) if kind in CLASSES]
    per_class = max((sum(one.kind == kind for one in prompts) for kind in kinds), default=1)
    known = built_in(kinds, per_class)
    if kinds and list(prompts[: len(known)]) == known:
        return kinds, per_class, list(prompts[len(known) :])
    return [], 1, list(prompts)


def _prompt_lines(prompts: Sequence[Prompt], file: str) -> list[str]:
    kinds, per_class, given = split_prompts(prompts)
    lines = ["", "[prompts]", f"classes = {_listed(map(_quoted, kinds))}"]
    lines += [f"per_class = {per_class}"] if kinds else []
    lines += [f"file = {_quoted(file)}"] if file else []
    for one in given:
        lines += ["", "[[prompts.given]]", f"prompt = {_quoted(one.text)}"]
        lines += [f"class = {_quoted(one.kind)}"]
    return lines


def _strategy_lines(strategies: Sequence[Strategy]) -> list[str]:
    lines = []
    for one in strategies:
        lines += ["", "[[strategies]]", f"draft = {_quoted(one.draft)}", f"k = {_listed(one.k)}"]
        lines += [f"tree = {_quoted(one.tree)}"] if one.tree else []
        lines += [f"policy = {_quoted(one.policy)}", f"rule = {_quoted(one.rule)}"]
    return lines


def _quoted(text: str) -> str:
    """Return a TOML string: JSON's, but for one more character that must be escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed(values: Iterable[object]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _number(value: Any, kind: type, wrong: SettingsError) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and not isinstance(value, int)):
        raise wrong
    if not abs(value) < 1e18:  # NaN compares false
        raise wrong
    return kind(value)
