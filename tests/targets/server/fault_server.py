"""A server that answers well until it is told which fault to have; one thread per connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.targets.server.toy_server import ToyServer

Fault = Callable[["Handler", Any], None]
"""Writes an answer; it is given what a good server would say."""


class FaultServer(ThreadingHTTPServer):
    """Serves a toy model; `fault` spoils every completion while it is set."""

    daemon_threads = True
    fault: Fault | None = None

    def __init__(self, toy: ToyServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.toy = toy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are meant to hang up on this server."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "uvicorn"  # BaseHTTP would be taken for mlx_lm
    server: FaultServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "toy", "owned_by": "vllm"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("stream"):
            chunks = [{"choices": [{"index": 0, "text": "the"}]} for _ in range(3)]
            good: Any = [*chunks, {"choices": [], "usage": {"completion_tokens": 3}}]
        else:
            good = self.server.toy.completions(asked)
        with suppress(OSError):  # whoever asked may be gone
            if self.server.fault is not None:
                self.server.fault(self, good)
            elif asked.get("stream"):
                self.answer(events(good), type="text/event-stream")
            else:
                self.answer(json.dumps(good))

    def answer(
        self,
        body: str | bytes,
        status: int = 200,
        type: str = "application/json",
        **headers: str,
    ) -> None:
        content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"content_type": type, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if "content_length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True


def events(chunks: list[Any]) -> str:
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])


@contextmanager
def serving(toy: ToyServer) -> Iterator[FaultServer]:
    with FaultServer(toy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
