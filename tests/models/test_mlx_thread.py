"""The MLX thread: one for all callers, and gone in time, so that no process aborts at its end."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from specdec.models.mlx_thread import MlxThread
from tests.models.tiny import write_tiny_llama

REPOSITORY = Path(__file__).parents[2]
USE_A_MODEL = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from specdec.models.mlx import MlxModel

def run():
    model = MlxModel.load(Path(sys.argv[1]), "tiny")
    cache = model.new_cache()
    model.prefill(range(3, 40), cache)
    return model.forward([5, 6, 7], cache)
"""
FINISHED_WORKERS = """
visitor = threading.Thread(target=run)
visitor.start()
visitor.join()
ThreadPoolExecutor(4).map(lambda _: run(), range(4))
"""
DAEMONS_AT_WORK = """
first_rounds = [threading.Event() for _ in range(3)]

def run_for_ever(first_round):
    while True:
        run()
        first_round.set()

for first_round in first_rounds:
    threading.Thread(target=run_for_ever, args=[first_round], daemon=True).start()
for first_round in first_rounds:
    first_round.wait()
"""


def test_all_jobs_run_on_one_thread_one_after_the_other() -> None:
    thread = MlxThread()
    seen: list[tuple[int, str]] = []

    def job() -> int:
        seen.append((threading.get_ident(), "begin"))
        seen.append((threading.get_ident(), "end"))
        return len(seen)

    with ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda _: thread.run(job), range(200)))
    assert sorted(results) == list(range(2, 401, 2))
    assert len({ident for ident, _ in seen}) == 1
    assert threading.get_ident() != seen[0][0]


def test_what_a_job_raises_reaches_its_caller_and_the_next_job_runs() -> None:
    thread = MlxThread()
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        thread.run(lambda: sys.exit(1))
    assert thread.run(lambda: 7) == 7


@pytest.mark.mlx
@pytest.mark.parametrize(
    "script", [FINISHED_WORKERS, DAEMONS_AT_WORK], ids=["finished workers", "daemons at work"]
)
def test_a_process_whose_threads_used_mlx_ends_quietly(tmp_path: Path, script: str) -> None:
    """Without the MLX thread some half of such processes ended with an abort."""
    pytest.importorskip("mlx_lm", reason="the mlx-lm package is not installed")
    folder = write_tiny_llama(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", USE_A_MODEL + script, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
