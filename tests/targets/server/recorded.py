"""Requests and responses recorded from real servers (vLLM 0.32, mlx_lm 0.32, llama-cpp-python)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from werkzeug import Request, Response

from specdec.targets.server.reader import Value

FOLDER = Path(__file__).parents[2] / "fixtures" / "servers"


def request_of(name: str) -> dict[str, Any]:
    """Return the recorded request: method, path, body."""
    request: dict[str, Any] = json.loads((FOLDER / f"{name}.request.json").read_text())
    return request


def response_of(name: str) -> dict[str, Any]:
    """Return the recorded response: status, headers, body."""
    response: dict[str, Any] = json.loads((FOLDER / f"{name}.response.json").read_text())
    return response


def body_of(name: str) -> Value:
    return Value(response_of(name)["body"])


def names(status: int) -> list[str]:
    """Return every recording of one status."""
    return sorted(
        str(file.relative_to(FOLDER)).removesuffix(".response.json")
        for file in FOLDER.glob("*/*.response.json")
        if json.loads(file.read_text())["status"] == status
    )


def replay(name: str) -> Response:
    """Return the recorded response as the real server sent it."""
    recorded = response_of(name)
    said = recorded.get("body_text", "")
    content = json.dumps(recorded["body"]) if "body" in recorded else said
    headers = {k: v for k, v in recorded["headers"].items() if k == "content-type"}
    return Response(content, recorded["status"], headers)


def replay_any(*recordings: str):
    """Return a handler that answers a request by the recording that was asked the same."""
    asked = [(json.dumps(request_of(name)["body"], sort_keys=True), name) for name in recordings]

    def handle(request: Request) -> Response:
        body = json.dumps(request.get_json(), sort_keys=True)
        return next(replay(name) for recorded, name in asked if recorded == body)

    return handle
