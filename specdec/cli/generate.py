"""The command `generate`: one run, shown as it grows, and what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from specdec.cli.loading import answers, config_of, load, tell_waiting
from specdec.cli.text import print_pieces, print_summary, printable, run_document
from specdec.errors import SpecdecError, StoreError
from specdec.pair import check_prompt
from specdec.perform import Performance, Phase
from specdec.records import FinishReason, RoundResult
from specdec.runs import audit
from specdec.runs.run import Run
from specdec.saved.files import check_place
from specdec.saved.trace import write_trace
from specdec.targets.server.remote import RemoteTarget
from specdec.targets.server.streaming import (
    measure_streaming,
    speculation_words,
    streaming_verdict,
)


def generate(options: argparse.Namespace, screen: Console) -> int:
    config = config_of(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    check_prompt(prompt)
    if options.save:
        check_place(Path(options.save))
    performance = Performance(
        config,
        prompt,
        load=load,
        on_wait=tell_waiting,
        with_baseline=not options.no_baseline,
        recall=partial(answers, prompt),
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
