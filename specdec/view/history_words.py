"""What the history page says about saved runs: names, figures with their differences, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdec.records import percent
from specdec.runs.compare import KPIS, Kpi, KpiRow, SettingDifference, kpi_table
from specdec.runs.noise import MIN_RUNS, Interval, MeanDifference, mean_difference, mean_interval
from specdec.runs.run import MAX_TITLE_CHARS, Run
from specdec.runs.speedup import interval_words as speedup_words
from specdec.saved.rows import StoredRun

MAX_VALUE_CHARS = 300
REPEATED = (
    "tokens_per_s",
    "speedup",
    "draft_acceptance_rate",
    "mean_acceptance_length",
    "ttft_s",
)
"""The figures of which repetitions have a mean; all are columns of the list."""
_LABELS: Mapping[str, Kpi] = {kpi.name: kpi for kpi in KPIS}
_SETTINGS = {
    "target": "Target asked for",
    "draft": "Draft asked for",
    "backend": "Backend asked for",
    "device": "Device asked for",
    "one_row": "Verified one row at a time",
    "num_draft_tokens": "K",
    "max_tokens": "Token limit",
    "rtt_ms": "Round trip, ms",
    "jitter_ms": "Jitter, ms",
    "prompt_ids": "Prompt as token ids",
    "target model": "Target",
    "draft model": "Draft",
}
"""Names of `describe_settings` that are not the words of the page."""


def heading(line: StoredRun) -> str:
    """Return the title, or else the prompt's beginning, in one line."""
    text = " ".join((line.title or line.prompt).split()) or "(no prompt)"
    return text if len(text) <= MAX_TITLE_CHARS else text[: MAX_TITLE_CHARS - 1] + "…"


def figure(kpi: Kpi, value: float | None) -> str:
    """Return a value, in percent or with the unit that its label does not name."""
    if value is None:
        return "–"
    if kpi.name == "draft_acceptance_rate":
        return percent(value)
    if kpi.name == "num_tokens":
        return f"{value:.0f}"
    if kpi.name == "speedup":
        return f"{value:.2f} ×"
    number = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{number} {kpi.unit}" if kpi.unit in ("×", "s") else number


def figure_of(kpi: Kpi, run: Run) -> str:
    """Return a figure of a run with its interval, where one run has one; nothing if not known."""
    value, interval = kpi.value(run), kpi.interval(run)
    if value is None:
        return ""
    if interval is None:
        return figure(kpi, value)
    return f"{speedup_words(interval)} ×"


def change(kpi: Kpi, value: float | None, base: float | None) -> str:
    """Say how far a value lies from the reference's, `base`, and whether that is better.

    Rates differ by percentage points, all else by percent of the reference; whole ones, because
    less than that is noise.
    """
    if value is None or base is None:
        return ""
    if kpi.name == "draft_acceptance_rate":
        amount, unit = 100 * (value - base), "points"
    elif base:
        amount, unit = 100 * (value / base - 1), "%"
    else:
        return ""
    said = f"{amount:+.0f} {unit}".replace("-", "−")
    if said[1:].startswith("0 "):
        return "same"
    if not kpi.better:
        return said
    return f"{said}, {'better' if (value > base) == (kpi.better == 'higher') else 'worse'}"


def kpi_rows(runs: Sequence[Run], names: Sequence[str], reference: int) -> list[dict[str, str]]:
    """Return a row for each figure, a column for each run, with differences to the reference."""
    return [_kpi_row(row, names, reference) for row in kpi_table(runs, reference)]


def _kpi_row(row: KpiRow, names: Sequence[str], reference: int) -> dict[str, str]:
    cells = {"": row.kpi.label}
    base = row.values[reference]
    columns = zip(names, row.values, row.intervals, strict=True)
    for index, (name, value, interval) in enumerate(columns):
        said = "" if index == reference else change(row.kpi, value, base)
        shown = figure(row.kpi, value) if interval is None else f"{speedup_words(interval)} ×"
        cells[name] = shown + (f"  ({said})" if said else "")
    return cells


def setting_rows(
    differences: Sequence[SettingDifference], names: Sequence[str]
) -> list[dict[str, str]]:
    """Return a row for each setting that differs, a column for each run.

    Another prompt has other token ids, which need no row of their own.
    """
    known = {one.name for one in differences}
    hidden = {"prompt_ids"} if "prompt" in known else set()
    return [
        {"": setting_word(one.name), **dict(zip(names, map(shown_value, one.values), strict=True))}
        for one in differences
        if one.name not in hidden
    ]


def setting_word(name: str) -> str:
    """Return what the page calls a setting of `describe_settings`."""
    if name.startswith("environment."):
        return f"Machine: {name.removeprefix('environment.')}"
    words = _SETTINGS.get(name, name.replace("_", " "))
    return words[:1].upper() + words[1:]


def shown_value(value: object) -> str:
    """Return a setting as a short text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "–" if value is None or value == "" else str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


# -- repetitions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repeated:
    """Runs of one configuration, named after the first one that was selected."""

    name: str
    lines: tuple[StoredRun, ...]

    def values(self, figure_name: str) -> list[float]:
        """Return what is known of one figure."""
        found = (getattr(line, figure_name) for line in self.lines)
        return [value for value in found if value is not None]


def interval_words(kpi: Kpi, interval: Interval) -> str:
    """Say a mean and how sure it is."""
    mean = figure(kpi, interval.mean)
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean}  ({figure(kpi, interval.low)} to {figure(kpi, interval.high)})"


def repeated_rows(groups: Sequence[Repeated]) -> list[dict[str, str]]:
    """Return a row for each configuration: how many runs, and the mean of every figure."""
    rows = []
    for group in groups:
        line = group.lines[0]
        row = {
            "Configuration": group.name,
            "Runs": str(len(group.lines)),
            "Draft": line.draft,
            "K": shown_value(line.num_draft_tokens),
            "Temp.": shown_value(line.temperature),
        }
        for name in REPEATED:
            values = group.values(name)
            known = interval_words(_LABELS[name], mean_interval(values)) if values else "–"
            row[_LABELS[name].label] = known
        rows.append(row)
    return rows


def noise_sentences(reference: Repeated, group: Repeated) -> list[str]:
    """Say for speed and acceptance whether `group` differs from `reference` by more than noise."""
    sentences = []
    for name in ("tokens_per_s", "draft_acceptance_rate"):
        ours, theirs = reference.values(name), group.values(name)
        if ours and theirs:
            difference = mean_difference(ours, theirs)
            sentences.append(_noise_sentence(name, reference, group, difference))
    return sentences


def _noise_sentence(
    name: str, reference: Repeated, group: Repeated, difference: MeanDifference
) -> str:
    kpi = _LABELS[name]
    by = _signed(kpi, difference.difference)
    what = f"{kpi.label}, {group.name} against {reference.name}: {by}"
    if difference.low is None or difference.high is None:
        counts = f"{len(reference.values(name))} and {len(group.values(name))}"
        return (
            f"{what}. Whether that is more than noise cannot be told: it takes {MIN_RUNS} runs of "
            f"each with different seeds, and there are {counts}."
        )
    bounds = f"{_signed(kpi, difference.low)} to {_signed(kpi, difference.high)}"
    verdict = "is within the noise" if difference.is_within_noise else "is more than noise"
    return f"{what}, which {verdict} (95 % interval {bounds})."


def _signed(kpi: Kpi, value: float) -> str:
    sign = "−" if value < 0 else "+"
    text = figure(kpi, abs(value))
    if kpi.name == "draft_acceptance_rate":
        text = text.removesuffix("%") + "points"
    return sign + text
