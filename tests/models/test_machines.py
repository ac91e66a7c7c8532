"""Every command starts on machines as they are: read-only, without a home, in another locale."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specdec.errors import ModelError, SettingsError
from specdec.models import compiled
from specdec.models.fetch import cache_place, hub
from specdec.models.portable import PortableModel
from specdec.pair import load_model
from tests.models.tiny import write_tiny_llama

ROOT = Path(__file__).parents[2]
PARTS = ("specdec", "pages", "streamlit_app.py", ".streamlit", "pyproject.toml")
posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with a model and a checkout that cannot be written."""
    base = tmp_path_factory.mktemp("machine")
    ignored = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        source, copy = ROOT / part, base / "checkout" / part
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=ignored)
        else:
            shutil.copyfile(source, copy)
    write_tiny_llama(base / "model", layers=1)
    (base / "writable").mkdir()
    close(base)
    (base / "writable").chmod(0o777)
    yield base
    for path in [base, *base.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(base)


def close(base: Path) -> None:
    for path in [base, *base.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def as_nobody_special() -> None:
    """Take from root the right to write whatever it likes; others do not have it."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None).prctl
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; holds from the next exec on


def options(place: Path, **variables: str) -> dict[str, Any]:
    """Return how to start a process that owns nothing and has no home."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "XDG_CACHE_HOME": str(place / "checkout"),
        "TMPDIR": str(place / "writable"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    return {"cwd": place / "checkout", "env": environment, "preexec_fn": as_nobody_special}


def run(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "specdec", *arguments],
        capture_output=True,
        timeout=240,
        **options(place, **variables),
    )


RUN = ("generate", "héllo", "--draft", "ngram", "--max-tokens", "8", "--backend", "portable")


@posix
def test_a_run_works_as_another_user_in_a_read_only_checkout_without_a_home(place: Path) -> None:
    done = run(place, *RUN, "--target", str(place / "model"))
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stdout + done.stderr


@posix
@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "ASCII", "Latin-1"],
)
def test_a_run_prints_in_any_locale(place: Path, variables: dict[str, str]) -> None:
    target = ("--target", str(place / "model"))
    done = run(place, *RUN, *target, NUMBA_DISABLE_JIT="1", **variables)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == 0 or b"enter it as UTF-8" in done.stderr, done.stderr.decode()


@posix
@pytest.mark.parametrize("arguments", [("--help",), ("models",)], ids=str)
def test_every_command_starts_where_nothing_can_be_written(
    place: Path, arguments: tuple[str, ...]
) -> None:
    done = run(place, *arguments, TMPDIR=str(place / "checkout"), PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr.decode()


@posix
def test_the_page_starts_in_a_read_only_checkout_without_a_home(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    command += ["--server.headless=true", f"--server.port={port}"]
    with (place / "writable" / "page.log").open("wb") as log:
        page = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            **options(place, LC_ALL="C", http_proxy="http://127.0.0.1:9"),
        )
        try:
            answer = wait_for(f"http://localhost:{port}/_stcore/health", page)
        finally:
            page.kill()
            page.wait()
    assert answer == b"ok", (place / "writable" / "page.log").read_text(errors="replace")


def wait_for(address: str, page: subprocess.Popen[bytes]) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        if page.poll() is not None:
            break
        try:
            with opener.open(address, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            time.sleep(0.25)
    return b""


def nowhere(monkeypatch: pytest.MonkeyPatch, num_failures: int) -> list[str]:
    """Let the kernels fail to find a place to be kept in `num_failures` times."""
    from numba.core import config

    tried: list[str] = []

    def fail() -> object:
        tried.append(config.CACHE_DIR)
        if len(tried) <= num_failures:
            raise RuntimeError("cannot cache function 'decode': no locator available")
        return "kernels"

    compiled.numba_kernels.cache_clear()
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(compiled, "_import", fail)
    return tried


@pytest.fixture(autouse=True)
def forget_kernels() -> Iterator[None]:
    yield
    compiled.numba_kernels.cache_clear()


@pytest.mark.parametrize("num_failures", [0, 1, 2, 3])
def test_kernels_go_to_the_cache_then_to_a_temporary_folder_then_there_are_none(
    num_failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path))
    tried = nowhere(monkeypatch, num_failures)
    assert compiled.numba_kernels() == ("kernels" if num_failures < 3 else None)
    assert tried[:2] == ["", str(tmp_path / "kernels")][: len(tried)]
    assert len(tried) == min(num_failures + 1, 3)


def test_settings_that_numba_does_not_take_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> object:
        raise ValueError("No threading layer could be loaded.")

    compiled.numba_kernels.cache_clear()
    monkeypatch.setattr(compiled, "_import", fail)
    with pytest.raises(ModelError, match=r"start its threads \(No threading layer"):
        compiled.numba_kernels()


@posix
def test_a_threading_layer_that_is_not_there_is_one_sentence(place: Path) -> None:
    done = run(place, *RUN, "--target", str(place / "model"), NUMBA_THREADING_LAYER="none")
    assert done.returncode in (1, 2)
    assert len(done.stderr.decode().splitlines()) == 1
    assert b"unset NUMBA_THREADING_LAYER" in done.stderr


@pytest.mark.parametrize("name", ["~nosuchuser/x", "~nosuchuser/x.gguf", "~nosuchuser"])
def test_a_home_that_is_not_there_is_no_traceback(name: str) -> None:
    with pytest.raises((ModelError, SettingsError), match="nosuchuser"):
        load_model(name, "portable")
    assert not hub.is_present(name)


def test_a_cache_in_a_home_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", "~nosuchuser/x")
    with pytest.raises(SettingsError, match="SPECDEC_CACHE names ~nosuchuser/x"):
        hub.cache_dir()


def test_who_has_no_home_gets_a_temporary_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECDEC_CACHE", raising=False)
    monkeypatch.setattr(cache_place.platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr(cache_place.os.path, "expanduser", lambda path: path)
    assert hub.cache_dir().is_absolute()


def test_without_kernels_the_answers_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_llama(tmp_path, layers=1)
    ours = PortableModel.load(folder)
    expected = ours.forward([5, 17], ours.new_cache()).argmax(-1)
    monkeypatch.setattr("specdec.models.portable.numba_kernels", lambda: None)
    plain = PortableModel.load(folder)
    assert (plain.forward([5, 17], plain.new_cache()).argmax(-1) == expected).all()
