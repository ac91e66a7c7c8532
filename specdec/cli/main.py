"""The command line: the main job without a browser, and a health check.

Exit status: 0 done, 1 the work itself failed, 2 the request cannot be carried out as asked, 130
interrupted (what was written by then is summed up and saved like any run).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from specdec.block import RULES
from specdec.cli import files as cli_files
from specdec.cli import models
from specdec.cli.generate import generate
from specdec.cli.text import printable
from specdec.errors import (
    ModelError,
    SettingsError,
    SpecdecError,
    TraceError,
    unexpected,
)
from specdec.models.backends import FACTS
from specdec.pair import DRAFT_STRATEGIES
from specdec.policies.named import POLICIES
from specdec.settings import AUTO, BACKENDS, RunConfig, Settings, default_draft, variables

INTERRUPTED = 130
TRACEBACK = "SPECDEC_TRACEBACK"
"""The environment variable that has a mistake of ours shown whole, for a report."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:]}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that is not UTF-8 shows "?" instead
            stream.reconfigure(errors="replace")
    screen = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        defaults = Settings.from_environment().run
        options = _make_parser(defaults).parse_args(arguments)
        status: int = options.command(options, screen)
        return status
    except SpecdecError as error:
        errors.print(Text(printable(str(error))))
        return 2 if isinstance(error, SettingsError | ModelError | TraceError) else 1
    except OSError as error:  # a full disk, mostly
        place = f" ({error.filename})" if error.filename else ""
        errors.print(Text(printable(f"{error.strerror or error}{place}.")))
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return INTERRUPTED
    except Exception as error:
        if variables().get(TRACEBACK):
            raise
        errors.print(Text(printable(f"{unexpected(error)} {TRACEBACK}=1 shows where.")))
        return 1


def _make_parser(defaults: RunConfig) -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m specdec", description="Speculative decoding, for real.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    write = commands.add_parser("generate", help="answer a prompt by speculative decoding")
    write.add_argument("prompt", help="what to answer; - reads it from standard input")
    _add_run_options(write, defaults)
    write.add_argument(
        "--save", metavar="FILE", help="keep the run as a trace, for replay and diff"
    )
    write.add_argument("--json", action="store_true", help="print one JSON document")
    write.add_argument(
        "--no-baseline",
        action="store_true",
        help="do not time plain decoding (a server's own streaming) for the speed-ups",
    )
    write.set_defaults(command=generate)

    play = commands.add_parser("replay", help="play a saved run back at its recorded times")
    play.add_argument("file")
    play.add_argument(
        "--speed", type=float, default=1.0, help="0.25 to 8 times as fast; 0 does not wait"
    )
    play.set_defaults(command=cli_files.replay)

    compare = commands.add_parser("diff", help="check that one saved run repeats another")
    compare.add_argument("one")
    compare.add_argument("other")
    compare.add_argument(
        "--tolerance", type=float, default=0.0, help="allowed difference of probabilities"
    )
    compare.set_defaults(command=cli_files.diff)

    lab = commands.add_parser("sweep", help="compare drafts and K over many prompts, by a plan")
    lab.add_argument("plan", metavar="PLAN.toml", help="what is compared: docs/lab.md")
    lab.add_argument(
        "--check", action="store_true", help="read the plan and say what it means; measure nothing"
    )
    lab.add_argument(
        "--report",
        metavar="FILE",
        action="append",
        default=[],
        help="write what came out, by the file's ending: .html, a page complete in itself; .csv, a "
        "row for each cell; .json; .jsonl, vLLM's per-request metrics of each run; may be repeated",
    )
    lab.set_defaults(command=_sweep)

    listing = commands.add_parser("models", help="list the models that can be named")
    listing.set_defaults(command=models.list_models)

    fetching = commands.add_parser("fetch", help="fetch a model's weights before they are needed")
    fetching.add_argument("name")
    fetching.set_defaults(command=models.fetch)

    checking = commands.add_parser("check", help="load draft and target, draft and verify a little")
    _add_run_options(checking, defaults)
    checking.set_defaults(command=models.check)
    return parser


def _add_run_options(parser: argparse.ArgumentParser, defaults: RunConfig) -> None:
    strategies = ", ".join(DRAFT_STRATEGIES)
    for flag, name, kind, text in (
        ("--target", "target", str, "model that decides: a known name, a Hugging Face id, a path"),
        (
            "--draft",
            "draft",
            str,
            f"what drafts: {strategies}, a model, or several (A+B one mixture, 'A|B' a branch "
            "each); auto is the best one for the target",
        ),
        ("--k", "num_draft_tokens", int, "drafted tokens per round, 0–16; 0 is plain decoding"),
        (
            "--tree",
            "tree",
            str,
            "shape of a model's draft: children per token by depth, such as 3-2-1, auto (grows "
            "where the draft is sure) or best (by this run's acceptance and costs); without it a "
            "chain",
        ),
        ("--policy", "policy", str, f"what decides K: {', '.join(POLICIES)}"),
        ("--rule", "rule", str, f"how a draft is verified: {' or '.join(RULES)}"),
        ("--temperature", "temperature", float, "0 (greedy) to 2"),
        ("--top-k", "top_k", int, "sample among the k likeliest tokens only; 0 is off"),
        ("--top-p", "top_p", float, "sample among the likeliest tokens of this mass; 1 is off"),
        ("--max-tokens", "max_tokens", int, "the most tokens to write"),
        ("--seed", "seed", int, "of the run's random generator"),
        ("--rtt-ms", "rtt_ms", float, "emulated network round trip in milliseconds"),
        ("--jitter-ms", "jitter_ms", float, "standard deviation of the emulated round trip"),
    ):
        default = getattr(defaults, name)
        if name == "draft" and default == default_draft(defaults.target, defaults.backend):
            default = AUTO  # of the target that is asked for, not of that in .env
        help_text = f"{text} (default: {default})" if default != "" else text
        parser.add_argument(flag, dest=name, type=kind, default=default, help=help_text)
    facts = "; ".join(f"{name}: {text}" for name, text in FACTS.items())
    parser.add_argument("--backend", choices=BACKENDS, default=defaults.backend, help=facts)
    parser.add_argument(
        "--device",
        default=defaults.device,
        help="where torch runs: auto, cpu, cuda, cuda:1 (the second GPU) or mps",
    )
    parser.add_argument(
        "--one-row",
        action="store_true",
        default=defaults.one_row,
        help="verify one token at a time: bit for bit plain decoding on any backend, no faster",
    )


def _sweep(options: argparse.Namespace, screen: Console) -> int:
    from specdec.cli.sweep import sweep  # brings the store, which no other command waits for

    return sweep(options, screen)
