"""A Hugging Face hub on this machine: the few answers that a snapshot download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of `repositories` and remembers which it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.downloaded: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        for repo_id, folder in self.server.repositories.items():
            if path.startswith((f"/api/models/{repo_id}", f"/{repo_id}/")):
                return self._answer_for(repo_id, folder, path)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _answer_for(self, repo_id: str, folder: Path, path: str) -> None:
        if repo_id in self.server.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if path.startswith(f"/{repo_id}/resolve/"):
            return self._send_file(folder, path.split("/", 5)[-1])
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = {file.relative_to(folder).as_posix(): file for file in files}
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _etag(file)}
                for name, file in names.items()
            ]
            return self._send(200, json.dumps(entries).encode(), {})
        siblings = [
            {"rfilename": name, "size": file.stat().st_size, "blobId": _etag(file)}
            for name, file in names.items()
        ]
        info = {"id": repo_id, "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(info).encode(), {})

    def _send_file(self, folder: Path, name: str) -> None:
        if self.command == "GET":
            self.server.downloaded.append(name)
        headers = {"ETag": f'"{_etag(folder / name)}"', "X-Repo-Commit": COMMIT}
        self._send(200, (folder / name).read_bytes(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
