"""A run as one HTML page to share: complete in itself, without script and without network.

Every value passes through the template's autoescaping, and a content security policy forbids what
might still slip through: whatever a model or a file says is shown as text.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from specdec.records import percent
from specdec.runs.compare import KPIS, describe_settings, time_shares
from specdec.runs.run import Run
from specdec.view.facts import token_facts, visible
from specdec.view.history_words import figure_of
from specdec.view.palette import LOOKS

_TEMPLATES = Path(__file__).parent / "templates"


def share_page(run: Run) -> str:
    """Return the page."""
    return _template().render(
        run=run,
        looks=LOOKS,
        tokens=_tokens(run),
        figures=_figures(run),
        positions=run.summary.per_position_acceptance if run.summary.num_spec_steps else (),
        settings=[
            (name, value)
            for name, value in describe_settings(run).items()
            if name not in ("prompt", "prompt_ids") and value is not None
        ],
        rows=_rows(run),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["percent"] = percent
    return environment.get_template("run.html")


def _tokens(run: Run) -> list[dict[str, Any]]:
    """Return the answer's pieces with the facts of their tokens.

    A token that completes no character has no piece: its facts stand with the next one's.
    """
    tokens = []
    waiting: list[str] = []
    for result, pieces in zip(run.rounds, run.round_pieces(), strict=True):
        for record, piece in zip(result.tokens, pieces, strict=True):
            waiting.append(token_facts(record, result.round + 1, run.token_text))
            if piece:
                facts = "\n\n".join(waiting)
                tokens.append({"piece": piece, "status": record.status, "facts": facts})
                waiting.clear()
    return tokens


def _rows(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "round": result.round,
            "record": record,
            "token": visible(run.token_text(record.token_id)),
        }
        for result in run.rounds
        for record in (*result.candidates, *([result.final] if result.final else []))
    ]


def _figures(run: Run) -> list[tuple[str, str]]:
    figures = [(kpi.label, figure_of(kpi, run)) for kpi in KPIS if kpi.value(run) is not None]
    if run.rounds:
        shares = time_shares(run.summary)
        figures += [(f"Time: {name}", f"{seconds:.4g} s") for name, seconds in shares.items()]
    return figures
