"""The process that renders chat templates; `template_process.py` starts and watches it.

A template is a program that came with a downloaded model. It runs in Jinja's sandbox, which keeps
it from files and from Python, but not from time and memory: those are bounded here and by whoever
watches. Reads and writes one JSON object a line; run by its path, it imports nothing of this
package.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY_BYTES = 512 << 20
MAX_CHARACTERS = 4 << 20


class Generation(Extension):
    """`{% generation %}`: marks what the assistant says, for training; the text is its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def main() -> None:
    """Answer every request until the other side hangs up."""
    _bound_memory()
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        template = _compile(request["source"])
    except (TemplateError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        return {"unreadable": _reason(error)}
    pieces, length = [], 0
    try:
        for piece in template.generate(request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                return {"refused": f"it makes more than {MAX_CHARACTERS} characters of it"}
    except Exception as error:  # a foreign program
        return {"refused": _reason(error)}
    return {"text": "".join(pieces)}


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    # Jinja's own filter escapes HTML, which the models were not trained on.
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON with the arguments that transformers' filter takes, in their order."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: time and the length of the answer stay bounded
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    except (ValueError, OSError):  # a lower limit of the machine's own, or macOS
        return


if __name__ == "__main__":
    main()
