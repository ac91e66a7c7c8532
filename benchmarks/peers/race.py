"""The race: every contestant in a process of its own, one at a time, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.contestants import Contestant

ROOT = Path(__file__).parents[2]
QUIET = {"OMP_WAIT_POLICY": "passive"}
"""For everybody: threads that spin while they wait take the cores from whoever writes next."""


@dataclass(frozen=True)
class Heat:
    """One prompt written by one contestant.

    `decode_s` and `decoded` leave out what came first, with the reading of the prompt. `logprob`
    is what the judge found afterwards, above temperature 0.
    """

    contestant: str
    temperature: float
    prompt: int
    repeat: int
    token_ids: tuple[int, ...]
    first_token_s: float
    decoded: int
    decode_s: float
    calls: int | None
    peak_mb: float
    logprob: float | None = None


class Refused(Exception):
    """A contestant cannot take part; says why."""


class Running:
    """A contestant's process, its models open."""

    def __init__(self, contestant: Contestant) -> None:
        """Start it.

        Raises:
            Refused: there is no such Python, or it lacks the engine.
        """
        if contestant.python is None:
            raise Refused(f"no Python has it here ({contestant.install})")
        self.contestant = contestant
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed by `close`
        command = [contestant.python, "-m", f"benchmarks.peers.{contestant.module}"]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(contestant.options)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | QUIET,
                text=True,
            )
        except OSError as error:
            raise Refused(f"{contestant.python} does not start ({error})") from None
        try:
            opened = self._answer()
            if "missing" in opened:
                raise Refused(f"{opened['missing']} ({contestant.install})")
        except Refused:
            self.close()
            raise
        self.version: str = opened["version"]

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer.

        Raises:
            Refused: it failed, or the process ended.
        """
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._answer()
        if "failed" in answer:
            raise Refused(answer["failed"])
        return answer

    def close(self) -> None:
        """End the process: its input ends, and it has ten seconds to follow."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            last = self._log.read().decode(errors="replace").strip().splitlines() or [""]
            raise Refused(f"its process ended: {last[-1][:300]} ({self.contestant.install})")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Result:
    """What a race came to: heats, cost ratios, versions, and who did not start, and why."""

    heats: list[Heat]
    ratios: dict[str, list[float]]
    versions: dict[str, str]
    refused: dict[str, str]


def race(
    contestants: Sequence[Contestant],
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    temperatures: Sequence[float],
    repeats: int,
    k: int,
    report: Callable[[str], None],
) -> Result:
    """Have everybody write every prompt `repeats` times, in turn.

    The order is turned by one from round to round, and one heat before them all warms up. Who
    fails in between is out, with what it did before.
    """
    result = Result([], {}, {}, {})
    with ExitStack() as stack:
        running: list[Running] = []
        for contestant in contestants:
            try:
                one = stack.enter_context(Running(contestant))
                _write(one, prompts[0], min(8, num_tokens), 0.0, 0)
            except Refused as refusal:
                result.refused[contestant.name] = str(refusal)
                report(f"{contestant.name}: not here, {refusal}")
                continue
            running.append(one)
            result.versions[contestant.engine] = one.version
            report(f"{contestant.name}: ready")
        turn = 0
        for repeat in range(repeats):
            for number, prompt in enumerate(prompts):
                for temperature in temperatures:
                    order = [*running[turn % len(running) :], *running[: turn % len(running)]]
                    turn += 1
                    for one in order:
                        try:
                            answer = _write(one, prompt, num_tokens, temperature, repeat)
                            _weigh(one, k, result.ratios)
                        except Refused as refusal:
                            result.refused[one.contestant.name] = str(refusal)
                            running.remove(one)
                            continue
                        heat = _heat(one.contestant.name, temperature, number, repeat, answer)
                        result.heats.append(heat)
                    report(
                        f"repeat {repeat + 1} of {repeats}, prompt {number + 1}, T {temperature}"
                    )
    return result


def _write(
    one: Running, prompt: Sequence[int], num_tokens: int, temperature: float, seed: int
) -> dict[str, Any]:
    return one.ask(
        prompt_ids=list(prompt), num_tokens=num_tokens, temperature=temperature, seed=seed
    )


def _weigh(one: Running, k: int, ratios: dict[str, list[float]]) -> None:
    """Add what a forward of K + 1 rows costs against one of one, right after each other."""
    many, single = (one.ask(num_rows=rows)["forward_ms"] for rows in (k + 1, 1))
    if many and single:
        ratios.setdefault(one.contestant.name, []).append(many / single)


def _heat(name: str, temperature: float, prompt: int, repeat: int, answer: dict[str, Any]) -> Heat:
    arrivals = answer["arrivals"]
    first_s, last_s = arrivals[0][0], arrivals[-1][0]
    return Heat(
        contestant=name,
        temperature=temperature,
        prompt=prompt,
        repeat=repeat,
        token_ids=tuple(answer["token_ids"]),
        first_token_s=first_s,
        decoded=sum(count for _, count in arrivals[1:]),
        decode_s=last_s - first_s,
        calls=answer["calls"],
        peak_mb=answer["peak_mb"],
    )
