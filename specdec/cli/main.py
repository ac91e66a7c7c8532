"""The command line: the main job without a browser, and a health check.

Exit status: 0 done, 1 the work itself failed, 2 the request cannot be carried out as asked, 130
interrupted (what was written by then is summed up and saved like any run).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, fields
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from specdec.block import RULES
from specdec.cli import files as cli_files
from specdec.cli.text import print_pieces, print_summary, printable, run_document
from specdec.engine import generate
from specdec.errors import (
    ModelError,
    SettingsError,
    SpecdecError,
    StoreError,
    TraceError,
    unexpected,
)
from specdec.models.backends import FACTS
from specdec.models.fetch import hub
from specdec.pair import DRAFT_STRATEGIES, LoadedModel, check_prompt, load_model, make_pair
from specdec.perform import Performance, Phase
from specdec.policies.named import POLICIES
from specdec.records import FinishReason, Prefilled, RoundResult, RunSummary
from specdec.runs import audit
from specdec.runs.run import Run
from specdec.saved.files import check_place
from specdec.saved.trace import write_trace
from specdec.settings import AUTO, BACKENDS, RunConfig, Settings, default_draft, variables
from specdec.targets.server.faults import Waiting
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import (
    measure_streaming,
    speculation_words,
    streaming_verdict,
)

CHECK_PROMPT = "What is the capital of France?"
CHECK_TOKENS = 8
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
    write.set_defaults(command=_generate)

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

    models = commands.add_parser("models", help="list the models that can be named")
    models.set_defaults(command=_models)

    fetch = commands.add_parser("fetch", help="fetch a model's weights before they are needed")
    fetch.add_argument("name")
    fetch.set_defaults(command=_fetch)

    check = commands.add_parser("check", help="load draft and target, draft and verify a little")
    _add_run_options(check, defaults)
    check.set_defaults(command=_check)
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


def _config(options: argparse.Namespace) -> RunConfig:
    names = [field.name for field in fields(RunConfig)]
    return RunConfig(**{name: getattr(options, name) for name in names if name in options})


def _load(name: str, place: str) -> LoadedModel:
    with _progress_bar() as progress:
        return load_model(name, place, progress.report)


def _tell_waiting(waiting: Waiting) -> None:
    if waiting.begins:
        Console(stderr=True, soft_wrap=True).print(Text(printable(str(waiting))))


class _progress_bar:
    """A bar on a terminal's standard error, from the first report until all is done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._terminal = Console(stderr=True)
        self._bar = Progress(*columns, console=self._terminal, transient=True)
        self._task = self._bar.add_task("", visible=False)

    def __enter__(self) -> _progress_bar:
        return self

    def report(self, done: int, total: int | None, what: str) -> None:
        if not self._terminal.is_terminal:
            return
        if not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=what, visible=True)

    def __exit__(self, *exc: object) -> None:
        if self._bar.live.is_started:  # or it would print an empty line
            self._bar.stop()


def _generate(options: argparse.Namespace, screen: Console) -> int:
    config = _config(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    check_prompt(prompt)
    if options.save:
        check_place(Path(options.save))
    performance = Performance(
        config,
        prompt,
        load=_load,
        on_wait=_tell_waiting,
        with_baseline=not options.no_baseline,
        recall=partial(_answers, prompt),
    )
    performance.open()
    failure = _follow(performance, None if options.json else screen)
    run = performance.run()
    if run is None:  # it ended while the baseline was measured
        raise failure or KeyboardInterrupt
    if options.save:
        try:
            write_trace(run, Path(options.save))
        except StoreError as unsaved:  # the disk is full by now: show what there is
            failure = failure or unsaved
    if options.json:
        compared = None if options.no_baseline else _compare_plainly(performance)
        comparison = None if compared is None else asdict(compared)
        shown = run_document(run) | {"comparison": comparison}
        document = json.dumps(shown, ensure_ascii=False, allow_nan=False)
        screen.out(document, highlight=False)  # ends quietly where nobody reads on, like all of it
    else:
        print_summary(run, screen)
        if not options.no_baseline and (compared := _compare_plainly(performance)):
            screen.print(str(compared))
        assert performance.pair is not None
        target = performance.pair.target
        if isinstance(target, RemoteTarget) and not options.no_baseline:
            _compare_streaming(target, run, screen)
    if failure is not None:
        raise failure
    if run.summary.finish_reason is FinishReason.STOPPED:
        raise KeyboardInterrupt
    if run.summary.error:
        Console(stderr=True, soft_wrap=True).print(Text(printable(run.summary.error)))
        return 1
    return 0


def _answers(prompt: str, prompt_ids: Sequence[int]) -> list[list[int]]:
    """Return what saved runs answered to the same prompt."""
    from specdec.saved.store import RunStore  # no other draft waits for it

    with closing(RunStore()) as store:
        return store.answers(prompt, prompt_ids)


def _compare_plainly(performance: Performance) -> audit.Comparison | None:
    """Measure what the backend's rounding came to, where the run is only exact up to it.

    An interruption leaves it out.
    """
    if not performance.is_to_be_compared:
        return None
    try:
        with closing(performance.plain_frames()) as frames:
            for _ in frames:
                pass
    except KeyboardInterrupt:
        return None
    assert performance.recorder is not None
    assert performance.plain is not None
    return audit.compare(performance.recorder.rounds, performance.plain.rounds)


def _compare_streaming(target: RemoteTarget, run: Run, screen: Console) -> None:
    """Have the same prompt streamed by the same server, and say which is faster."""
    speed = run.summary.tokens_per_s
    if speed is None or run.summary.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
        return
    assert run.config is not None
    config = run.config
    try:
        streaming = measure_streaming(target, run.prompt_ids, config.sampler, config.max_tokens)
    except SpecdecError as error:
        screen.print(Text(printable(f"Its streaming could not be timed. {error}")))
    else:
        screen.print(streaming_verdict(speed, streaming))
        if streaming.speculation is not None:
            screen.print(speculation_words(streaming.speculation))


def _follow(performance: Performance, screen: Console | None) -> Exception | None:
    """Make the run; show the text as it grows where there is a screen.

    An interruption ends the run where it stands, and so does any error, which is returned: what
    was written by then is a run to be kept.
    """
    try:
        with suppress(KeyboardInterrupt), closing(performance.frames()) as frames:
            for frame in frames:
                if screen is None or performance.phase is Phase.BASELINE:
                    continue
                if isinstance(frame.event, RoundResult):
                    print_pieces(frame.event, frame.pieces, screen)
    except Exception as failure:
        return failure
    return None


def _sweep(options: argparse.Namespace, screen: Console) -> int:
    from specdec.cli.sweep import sweep  # brings the store, which no other command waits for

    return sweep(options, screen)


def _models(options: argparse.Namespace, screen: Console) -> int:
    for model in hub.list_models():
        state = "here" if model.present else "to be fetched"
        size = f"{model.size_bytes / 1e6:,.0f} MB"
        screen.print(Text(f"{model.name:32}  {size:>9}  {state:13}  {model.description}"))
        if model.path is not None:
            screen.print(Text(f"{'':32}  {model.path}", "dim"))
    for name, text in DRAFT_STRATEGIES.items():
        screen.print(Text(f"{name:32}  {'':9}  {'drafts only':13}  {text}"))
    return 0


def _fetch(options: argparse.Namespace, screen: Console) -> int:
    with _progress_bar() as progress:
        folder = hub.resolve(options.name, progress=progress.report)
    screen.print(Text(str(folder)))
    return 0


def _check(options: argparse.Namespace, screen: Console) -> int:
    """Go through the parts of a run in order; the first that fails is named by its error."""
    config = _config(options)
    recall = partial(_answers, CHECK_PROMPT)
    pair = make_pair(config, _load, _tell_waiting, recall)
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
