"""The one child process that renders templates for this process, and the limits that hold for it.

Started when a model with a template is opened, it is ready long before the weights are; from then
on a prompt costs a millisecond. One that does not answer in time is killed, and the next template
gets a new one.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.errors import ModelError

TIME_LIMIT_S = 5.0
_START_LIMIT_S = 30.0
_MAX_ANSWER_BYTES = 64 << 20  # every character may be written as an escape


class TemplateProcess:
    """A child process that renders, one template at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = False

    def start(self) -> None:
        """Start the child unless it runs; returns at once."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return what a template makes of `variables`.

        Raises:
            ModelError: the template cannot be read, refuses, or goes beyond time or memory.
        """
        request = json.dumps({"source": source, "variables": variables}).encode() + b"\n"
        with self._lock:
            child = self._started()
            if not self._ready:
                self._exchange(child, b'{"source": "", "variables": {}}\n', _START_LIMIT_S)
                self._ready = True
            answer = self._exchange(child, request, TIME_LIMIT_S)
        if "unreadable" in answer:
            raise ModelError(f"The model's chat template cannot be read: {answer['unreadable']}.")
        if "refused" in answer:
            raise ModelError(f"The model's chat template refuses the prompt: {answer['refused']}.")
        return str(answer["text"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        program = Path(__file__).with_name("template_child.py")
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ModelError(
                f"The process that renders chat templates cannot be started ({error}); "
                "close other programs and try again."
            ) from error
        return self._child

    def _exchange(
        self, child: subprocess.Popen[bytes], request: bytes, limit_s: float
    ) -> dict[str, str]:
        """Send a request and wait for its answer, no longer than `limit_s`."""
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.kill()

        watchdog = threading.Timer(limit_s, give_up)
        watchdog.daemon = True
        watchdog.start()
        line = b""
        try:
            child.stdin.write(request)
            child.stdin.flush()
            line = child.stdout.readline(_MAX_ANSWER_BYTES)
        except OSError:  # it has ended
            pass
        finally:
            watchdog.cancel()
            if not line.endswith(b"\n"):  # also where the caller was interrupted in the middle
                self._end()
        if not line.endswith(b"\n"):
            reason = (
                f"it takes more than {limit_s:g} seconds" if late.is_set() else "it needs too much"
            )
            return {"refused": reason}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _end(self) -> None:
        child, self._child, self._ready = self._child, None, False
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not written yet
                    continue
        child.wait()


TEMPLATES = TemplateProcess()
atexit.register(TEMPLATES.close)
