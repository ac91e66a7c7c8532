"""The tokenizer of a target whose weights are elsewhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from specdec.errors import ModelError
from specdec.models.fetch import hub
from specdec.models.fetch.known import KNOWN_MODELS
from specdec.models.tokenizer import Tokenizer

TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
]
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_HARMONY_TOKENS = {"<|start|>", "<|message|>", "<|channel|>", "<|return|>"}
_HARMONY_ENDS = ("<|return|>", "<|call|>", "<|endoftext|>")
HARMONY = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n\n"
    "Reasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    "<|end|>"
    "{% for message in messages %}"
    "<|start|>{{ message['role'] }}<|message|>{{ message['content'] }}<|end|>"
    "{% endfor %}<|start|>assistant"
)
"""The prompt of gpt-oss (https://github.com/openai/harmony, docs/format.md), for a tokenizer.json
that came without the template of its model."""


def load_target_tokenizer(name: str) -> Tokenizer:
    """Open the tokenizer called `name`: a folder, a tokenizer.json, a known model or a repo id.

    Of a repository, only the tokenizer's files are fetched.

    Raises:
        ModelError: there is no such tokenizer, or it cannot be fetched.
    """
    if name in KNOWN_MODELS:
        return Tokenizer.load(hub.resolve(name))
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return _open(path)
    if path.name == "tokenizer.json" and path.is_file():
        return _open(path.parent)
    if not _REPO_ID.fullmatch(name):
        raise ModelError(
            f"There is no tokenizer {name}; set the endpoint's tokenizer to a folder, a "
            "tokenizer.json or the Hugging Face id of the target's model."
        )
    return _open(_fetch(name))


def _open(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer.has_chat_template or not _is_harmony(folder):
        return tokenizer
    return Tokenizer(folder / "tokenizer.json", eos_tokens=_HARMONY_ENDS, chat_template=HARMONY)


def _is_harmony(folder: Path) -> bool:
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"] for token in added} >= _HARMONY_TOKENS


def _fetch(repo_id: str) -> Path:
    """Return the folder with the tokenizer of a repository, from the hub's cache if it is there."""
    import huggingface_hub  # takes half a second, which only users of the hub should wait
    from huggingface_hub.errors import LocalEntryNotFoundError

    for only_local in (True, False):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    repo_id, allow_patterns=TOKENIZER_FILES, local_files_only=only_local
                )
            )
        except LocalEntryNotFoundError:
            continue
        except Exception as error:  # connection errors differ between versions of the hub's client
            reason = " ".join(str(error).split())
            raise ModelError(
                f"The tokenizer of {repo_id} cannot be fetched from the Hugging Face hub "
                f"({type(error).__name__}: {reason:.200}); set the endpoint's tokenizer to a "
                "local folder or tokenizer.json."
            ) from error
        if (folder / "tokenizer.json").is_file():
            return folder
    raise ModelError(
        f"No tokenizer.json of {repo_id} is on this machine or to be had from the Hugging Face "
        "hub; set the endpoint's tokenizer to a local folder or tokenizer.json."
    )
