"""Prompts for a sweep: built-in classes, or what a file brings.

A class is a kind of traffic, because acceptance belongs to the kind: code and summaries repeat
what was said, prose does not. Files are hostile or just long: what is read is bounded, and what
cannot be used is refused with its place.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import SettingsError

MAX_FILE_BYTES = 20 * 2**20
MAX_PROMPTS = 10_000
MAX_PROMPT_CHARS = 100_000
OWN = "own"
"""The class of prompts that name none."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and the class of traffic that it stands for."""

    text: str
    kind: str = OWN

    @property
    def mark(self) -> str:
        """Return what names the prompt in a cell's key."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


_TOPICS = (
    "The first bicycles had no pedals: a rider sat astride a wooden beam between two wheels and "
    "pushed the ground away with the feet. Pedals came in the 1860s, fixed to the front wheel, "
    "and so the front wheel grew, because a larger wheel went further at each turn. The chain, "
    "which lets the pedals turn the rear wheel at a higher speed, brought the rider down again.",
    "A tide pool is a small sea with a timetable. Twice a day the water leaves, the sun warms what "
    "stays behind, and the salt grows stronger; twice a day the waves return and wash everything "
    "cold again. Whoever lives there has learnt to hold on, to close up, and to wait.",
    "The lighthouse was automated in 1989. Until then two keepers shared the watch, four hours "
    "each, wound the clockwork that turned the lens, and wrote the weather into a book. The books "
    "are in the county archive; a storm of 1953 takes up eleven pages.",
    "Sourdough is a bargain with yeast and bacteria that live on flour. The baker feeds them; they "
    "raise the dough and sour it. Warmth speeds both, but not alike: in a warm kitchen the bread "
    "turns mild, in a cool one it turns sharp, and either way it keeps longer than other bread.",
    "A pendulum clock loses time in summer, because its rod grows longer with warmth. Clockmakers "
    "hung jars of mercury from the rod: the mercury rises as the rod sinks, and the centre of the "
    "mass stays where it was. A good regulator of 1800 was off by a second in a week.",
    "The library lends tools as well as books. A drill is used for thirteen minutes in its whole "
    "life, somebody has worked out, so forty households now share six of them. The saws come back "
    "clean, the ladders come back late, and the waiting list for the apple press is long.",
    "Snow is a good insulator because most of it is air. Under half a metre of it the ground stays "
    "near freezing while the night above is far colder, and voles spend the winter there, in "
    "tunnels, out of the wind and out of sight of the owls, which hear them all the same.",
    "The canal was dug by hand, in eleven years, by some four thousand people. It carried coal and "
    "grain for fifty years, until the railway came; then it carried nothing. Now it carries "
    "holidaymakers, at walking pace, past the engine houses that used to fill its locks.",
)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "code": (
        "Write a Python function that counts how often each word occurs in a text.",
        "Write a Python class for a bank account with deposit, withdraw and a history.",
        "Write a JavaScript function that sorts a list of people by age and then by name.",
        "Write a Python function that checks whether brackets in a text are balanced.",
        "Write an SQL query that lists the ten customers who spent most in the last year.",
        "Write a Python program that reads a CSV file and prints the mean of each column.",
        "Write a function in C that reverses a linked list, and explain each line.",
        "Write a Python test for a function that turns Roman numerals into numbers.",
    ),
    "prose": (
        "Write a short story about a lighthouse keeper who finds a message in a bottle.",
        "Describe a market in the early morning, before the first customers come.",
        "Write a letter from a sailor to a sister he has not seen for ten years.",
        "Tell the story of a clock that runs backwards, in the voice of its maker.",
        "Describe the last train of the night and the people in it.",
        "Write the beginning of a mystery novel that is set in a greenhouse.",
        "Write a bedtime story about a fox who is afraid of the dark.",
        "Describe a thunderstorm as seen from a mountain hut.",
    ),
    "list": (
        "List ten things to check before leaving on a bicycle tour, with a reason for each.",
        "List the planets of the solar system with one fact about each.",
        "List eight ways to save water at home and how much each may save.",
        "Give a packing list for a week of camping in autumn.",
        "List ten common mistakes in job interviews and how to avoid them.",
        "List the steps to repaint a wooden window frame.",
        "List seven kinds of clouds and the weather that each announces.",
        "Give ten ideas for a rainy afternoon with small children.",
    ),
    "summary": tuple(f"Summarise the following text in two sentences.\n\n{t}" for t in _TOPICS),
    "question": (
        "Why is the sky blue, and why are sunsets red?",
        "How does a refrigerator make things cold?",
        "What is the difference between weather and climate?",
        "Why do leaves change their colour in autumn?",
        "How do vaccines teach the body to fight a disease?",
        "Why does bread rise?",
        "What causes the tides?",
        "How does a computer store a photograph?",
    ),
}


def built_in(kinds: Iterable[str], per_class: int) -> list[Prompt]:
    """Return the first `per_class` prompts of each class.

    Raises:
        SettingsError: there is no such class.
    """
    prompts = []
    for kind in kinds:
        if kind not in CLASSES:
            raise SettingsError(
                f"There is no class of prompts {kind!r:.60}; choose of {', '.join(CLASSES)}."
            )
        prompts += [Prompt(text, kind) for text in CLASSES[kind][:per_class]]
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts in a file; see `parse_prompts`.

    Raises:
        SettingsError: it cannot be read, or holds no prompts.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_prompts(path.name, data)


def parse_prompts(name: str, data: bytes) -> list[Prompt]:
    """Return the prompts in what a file of this name holds, by the ending of the name.

    .txt: one after each empty line. .csv: the column "prompt", and "class" where there is one.
    .jsonl: objects with "prompt" and "class", or Spec-Bench's with "turns" (of which the first is
    taken) and "category". .json: an array of such objects or of texts.

    Raises:
        SettingsError: it cannot be used, or holds no prompts.
    """
    readers = {".txt": _paragraphs, ".csv": _rows, ".jsonl": _lines, ".json": _array}
    reader = readers.get(Path(name).suffix.lower())
    if reader is None:
        raise SettingsError(f"Prompts come from a .txt, .csv, .jsonl or .json file, not {name}.")
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{name} is larger than {MAX_FILE_BYTES // 2**20} MB.")
    try:
        prompts = list(reader(data.decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise SettingsError(f"{name} is not text in UTF-8: save it in that encoding.") from None
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None
    if not prompts:
        raise SettingsError(f"{name} holds no prompts.")
    if len(prompts) > MAX_PROMPTS:
        raise SettingsError(f"{name} holds more than {MAX_PROMPTS:,} prompts.")
    return prompts


def _paragraphs(text: str) -> Iterator[Prompt]:
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield checked_prompt("\n".join(lines), OWN, f"the paragraph before line {number}")
            lines = []


def _rows(text: str) -> Iterator[Prompt]:
    rows = csv.DictReader(io.StringIO(text))
    if "prompt" not in (rows.fieldnames or ()):
        raise SettingsError('the first line must name a column "prompt".')
    try:
        for row in rows:
            yield checked_prompt(row.get("prompt"), row.get("class"), f"line {rows.line_num}")
    except csv.Error as error:
        raise SettingsError(f"line {rows.line_num} is no CSV ({error}).") from None


def _lines(text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _of_json(_json(line, f"line {number}"), f"line {number}")


def _array(text: str) -> Iterator[Prompt]:
    values = _json(text, "it")
    if not isinstance(values, list):
        raise SettingsError("it must be an array of prompts.")
    for number, value in enumerate(values, start=1):
        yield _of_json(value, f"entry {number}")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError(f"{place} is no JSON.") from None


def _of_json(value: Any, place: str) -> Prompt:
    if isinstance(value, str):
        return checked_prompt(value, OWN, place)
    if not isinstance(value, dict):
        raise SettingsError(f'{place} must be a text, or an object with "prompt" or "turns".')
    turns = value.get("turns")
    first = turns[0] if isinstance(turns, list) and turns else None
    return checked_prompt(
        value.get("prompt", first), value.get("class", value.get("category")), place
    )


def checked_prompt(text: Any, kind: Any, place: str) -> Prompt:
    """Return a prompt of any values, or refuse them with their place.

    Raises:
        SettingsError: there is no usable text.
    """
    if not isinstance(text, str) or not text.strip():
        raise SettingsError(f"{place} holds no prompt.")
    if len(text) > MAX_PROMPT_CHARS:
        raise SettingsError(f"{place} is longer than {MAX_PROMPT_CHARS:,} characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{place} is not valid Unicode.") from None
    return Prompt(text, kind.strip()[:60] if isinstance(kind, str) and kind.strip() else OWN)
