"""A sweep as one HTML page: complete in itself, without script and without network.

Every value passes through the template's autoescaping, and a content security policy forbids what
might still slip through, as in the page of a single run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from specdec.lab.advice import advise, conditions_to_advise, sentences
from specdec.lab.configurations import configurations
from specdec.lab.findings import acceptance_by_position, extremes, prompt_gains
from specdec.lab.plan_file import write_plan
from specdec.lab.predict import median_error
from specdec.lab.report import Report
from specdec.lab.results import Condition, Outcome
from specdec.records import percent
from specdec.view.facts import visible
from specdec.view.lab_charts import heat_color, how_known, interval_words, sorted_by_arm
from specdec.view.lab_words import meaning

_TEMPLATES = Path(__file__).parent / "templates"


def report_page(report: Report) -> str:
    """Return the page."""
    plan, results = report.plan, report.results
    places = [Condition(t, rtt) for t in plan.temperatures for rtt in plan.rtt_ms]
    return _template().render(
        plan=plan,
        meaning=meaning(plan),
        plan_text=write_plan(plan, keeps_file=True),
        num_measured=len(report.measured),
        machines=report.machines,
        environment=report.environment,
        error=percent(median_error(report.checks)),
        num_checks=len(report.checks),
        sections=[_section(report, place) for place in places if results.outcomes(place)],
        num_positions=max(k for one in plan.strategies for k in (0, *one.k))
        if plan.strategies
        else 0,
        positions=[
            {"temperature": temperature, "label": label, "kind": kind, "rates": rates}
            for temperature in plan.temperatures
            for (label, kind), rates in acceptance_by_position(
                results, plan.arms, temperature
            ).items()
        ],
    )


def _section(report: Report, place: Condition) -> dict[str, Any]:
    """Return what is told about one temperature and link."""
    plan, results = report.plan, report.results
    outcomes = results.outcomes(place)
    advised = [
        (one.kind or "all prompts", advice)
        for one in conditions_to_advise(plan, place.temperature, place.rtt_ms)
        if (advice := advise(results, one)) is not None
    ]
    drafting = [one for one in outcomes if not one.arm.is_plain and not one.is_predicted]
    gains = prompt_gains(plan, results, place, drafting[0].arm) if drafting else []
    most, least = extremes(gains)
    return {
        "temperature": place.temperature,
        "rtt_ms": place.rtt_ms,
        "advice": [(kind, sentences(one)) for kind, one in advised],
        "configurations": configurations(plan, advised[0][1].best.arm) if advised else [],
        "columns": sorted({one.arm.num_draft_tokens for one in outcomes}),
        "rows": _heat_rows(outcomes),
        "best_arm": f"{drafting[0].arm.label}, K = {drafting[0].arm.num_draft_tokens}"
        if drafting
        else "",
        "extremes": [*(("most", one) for one in most), *(("least", one) for one in least)],
    }


def _heat_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, dict[int, dict[str, Any]]]]:
    """Return a row for each way of drafting, its cells by K."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for one in sorted_by_arm(outcomes):
        rows.setdefault(one.arm.label, {})[one.arm.num_draft_tokens] = {
            "outcome": one,
            "color": heat_color(one.speedup.mean),
            "interval": interval_words(one),
            "known": how_known(one),
            "framed": one.is_within_noise and one.speedup.low is not None,
        }
    return list(rows.items())


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["visible"] = visible
    environment.filters["short"] = lambda value: f"{value:g}"
    return environment.get_template("lab.html")
