"""A real PostgreSQL server for tests: the machine's own programs, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

WHY_NOT = (
    "no PostgreSQL server is installed (Debian: apt-get install postgresql), or no psycopg "
    '(pip install "psycopg[binary]")'
)
_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Return the folder with initdb and postgres; None where there is none."""
    for folder in (*sorted(_DEBIAN.glob("*/bin"), reverse=True), *_on_path()):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _on_path() -> list[Path]:
    found = shutil.which("initdb")
    return [Path(found).resolve().parent] if found else []


class Server:
    """A server that can be killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None, WHY_NOT
        self._programs = found
        self._data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        # The server refuses to run as root, so somebody else has to own its folder.
        self._user = None
        if os.geteuid() == 0:
            self._user = "postgres" if _is_user("postgres") else "nobody"
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "specdec", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://specdec@127.0.0.1:{self._port}/postgres"

    def _command(self, program: str, *arguments: object) -> list[str]:
        return [str(self._programs / program), *map(str, arguments)]

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            self._command(program, *arguments),
            check=True,
            user=self._user,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options += " -c fsync=off -c max_connections=60"
        log = self._data.parent / "log"
        self._run("pg_ctl", "start", "-w", "-s", "-D", self._data, "-o", options, "-l", log)

    def stop(self) -> None:
        """Kill it without any farewell, and wait until all of it is gone."""
        self._run("pg_ctl", "stop", "-s", "-D", self._data, "-m", "immediate")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing of it run for a while; connections stay open."""
        postmaster = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(postmaster)],
            capture_output=True,
            text=True,
            check=True,
        )
        processes = [postmaster, *map(int, children.stdout.split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextmanager
def serving() -> Iterator[Server]:
    """Have a server for a while."""
    with tempfile.TemporaryDirectory(prefix="specdec-postgres-") as folder:
        server = Server(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def empty(url: str) -> None:
    """Drop what a store has made in the database."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for table in ("cells", "sweeps", "traces", "runs", "migrations"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS specdec_{table}"))
    engine.dispose()
