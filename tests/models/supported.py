"""Writes docs/supported.md from the tables of the tests: python -m tests.models.supported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from specdec.models.fetch.gguf_tokenizer import ENDS_OF_A_TURN, PRE_TOKENIZERS
from specdec.models.llama_config import KINDS, PLAIN, ROPE_TYPES
from specdec.models.template_child import MAX_CHARACTERS, MAX_MEMORY_BYTES
from specdec.models.template_process import TIME_LIMIT_S
from specdec.models.weight_files import DTYPES
from tests.models import folders, templates
from tests.models.fetch import gguf_files

PAGE = Path(__file__).parents[2] / "docs" / "supported.md"


def page() -> str:
    """Return the page."""
    return "\n".join([*_folders(), *_gguf(), *_templates()]) + "\n"


def _items(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines] + [""]


def _codes(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _folders() -> list[str]:
    return [
        "# What opens",
        "",
        "Written from the tables of the tests (`python -m tests.models.supported`). What opens"
        " says the same tokens as transformers on the same folder; what does not is refused in one"
        " sentence that names the file, the field and its value.",
        "",
        "## Model folders",
        "",
        f"The portable backend runs {_codes(KINDS)} with rotary scalings {_codes(ROPE_TYPES)} and"
        f" weights in {_codes(DTYPES)}. The MLX backend (`--backend mlx`) opens what mlx-lm knows.",
        "",
        "### Fields of config.json with one meaning only",
        "",
        "| Field | The portable backend | Other values |",
        "|---|---|---|",
        *(
            f"| {_codes(rule.names)} | {rule.meaning} | "
            f"{'MLX backend' if rule.mlx else 'refused'} |"
            for rule in PLAIN
        ),
        "",
        "### Opens",
        "",
        *_items(row.words for row in folders.OBEYED),
        "### Is refused",
        "",
        *_items(row.words for row in folders.REFUSED),
    ]


def _gguf() -> list[str]:
    return [
        "## GGUF files",
        "",
        "Of the architecture `llama`, in every quantisation that the gguf library unpacks. Words"
        f" are cut the way of {_codes(PRE_TOKENIZERS)}. A turn also ends with"
        f" {_codes(sorted(ENDS_OF_A_TURN))}.",
        "",
        "### Opens",
        "",
        *_items(words for words, _ in gguf_files.OBEYED),
        "### Is refused",
        "",
        *_items(words for words, *_ in gguf_files.REFUSED),
    ]


def _templates() -> list[str]:
    return [
        "## Chat templates",
        "",
        f"Rendered in a process of their own, in {TIME_LIMIT_S:g} seconds, {MAX_MEMORY_BYTES >> 20}"
        f" MB and {MAX_CHARACTERS} characters at most. A prompt that a template leaves out as text"
        " is tried as a list of parts, then refused.",
        "",
        "### Keeps the prompt",
        "",
        *_items(templates.KEPT),
        "### Is refused",
        "",
        *_items(templates.REFUSED),
    ][:-1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
