"""The commands about models: which there are, fetch one, check that a pair works."""

from __future__ import annotations

import argparse
from functools import partial

from rich.console import Console
from rich.text import Text

from specdec.cli.loading import ProgressBar, answers, config_of, load, tell_waiting
from specdec.cli.text import printable
from specdec.engine import generate
from specdec.models.fetch import hub
from specdec.pair import DRAFT_STRATEGIES, make_pair
from specdec.records import FinishReason, Prefilled, RoundResult, RunSummary
from specdec.targets.server.remote import RemoteTarget

CHECK_PROMPT = "What is the capital of France?"
CHECK_TOKENS = 8


def list_models(options: argparse.Namespace, screen: Console) -> int:
    for model in hub.list_models():
        state = "here" if model.present else "to be fetched"
        size = f"{model.size_bytes / 1e6:,.0f} MB"
        screen.print(Text(f"{model.name:32}  {size:>9}  {state:13}  {model.description}"))
        if model.path is not None:
            screen.print(Text(f"{'':32}  {model.path}", "dim"))
    for name, text in DRAFT_STRATEGIES.items():
        screen.print(Text(f"{name:32}  {'':9}  {'drafts only':13}  {text}"))
    return 0


def fetch(options: argparse.Namespace, screen: Console) -> int:
    with ProgressBar() as progress:
        folder = hub.resolve(options.name, progress=progress.report)
    screen.print(Text(str(folder)))
    return 0


def check(options: argparse.Namespace, screen: Console) -> int:
    """Go through the parts of a run in order; the first that fails is named by its error."""
    config = config_of(options)
    recall = partial(answers, CHECK_PROMPT)
    pair = make_pair(config, load, tell_waiting, recall)
    if isinstance(pair.target, RemoteTarget):
        for line in (*pair.target.status(config.sampler), *pair.target.findings):
            screen.print(Text(f"    {line.question}: {printable(line.answer)}"))
    runs_on = pair.runs_on or pair.target.backend
    screen.print(Text(f"ok  target {pair.target.name} on {runs_on}, loaded"))
    screen.print(f"ok  drafter {pair.drafter.name}, loaded")
    prompt_ids = pair.encode_prompt(CHECK_PROMPT)
    events = generate(
        prompt_ids,
        pair.target,
        pair.round_settings(config),
        max_tokens=CHECK_TOKENS,
        seed=config.seed,
    )
    rounds: list[RoundResult] = []
    for event in events:
        match event:
            case Prefilled():
                screen.print(
                    f"ok  prompt read: {event.num_prompt_tokens} tokens in {event.prefill_s:.2f} s"
                )
            case RoundResult():
                rounds.append(event)
            case RunSummary(finish_reason=FinishReason.ERROR):
                screen.print(Text(f"FAILED  {printable(event.error or '')}"))
                return 1
            case RunSummary():
                screen.print(
                    f"ok  drafted {event.num_draft_tokens} tokens in {event.draft_s:.2f} s; the "
                    f"target verified them in {event.num_target_calls} calls, "
                    f"{event.verify_s:.2f} s, and accepted {event.num_accepted_draft_tokens}"
                )
    written = [token_id for result in rounds for token_id in result.emitted]
    screen.print(Text(f"ok  wrote {printable(pair.tokenizer.decode(written))!r}"))
    screen.print(f"ok  output {pair.target.exactness_for(config.sampler)}")
    return 0
