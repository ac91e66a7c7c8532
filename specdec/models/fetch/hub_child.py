"""The child process that downloads from the Hugging Face hub; `download.py` starts and watches it.

A process of its own can be stopped at any byte and keeps the download's threads out of the app.
Writes one JSON line, `{"total": bytes, "watch": folder}`; ends with a sentence for the user and
status 1 when something is wrong. Run by its path, so it imports nothing of this package.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)


def main(repo_id: str, patterns: list[str], local_dir: str | None) -> None:
    """Download the files of `repo_id` that match `patterns`, into the hub's cache by default."""
    siblings = HfApi().model_info(repo_id, files_metadata=True).siblings or []
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in siblings}
    wanted = [name for name in sizes if any(fnmatch(name, pattern) for pattern in patterns)]
    if not any(name.endswith(".safetensors") for name in wanted):
        raise SystemExit(f"{repo_id} has no weights as model.safetensors; choose another model.")
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    total = sum(sizes[name] for name in wanted)
    sys.stdout.write(json.dumps({"total": total, "watch": local_dir or str(cache)}) + "\n")
    sys.stdout.flush()
    snapshot_download(repo_id, allow_patterns=patterns, local_dir=local_dir)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    page = f"https://huggingface.co/{request['repo_id']}"
    try:
        main(**request)
    except GatedRepoError:
        sys.exit(f"{page} asks you to accept its terms: do so there, then run `hf auth login`.")
    except RepositoryNotFoundError:
        sys.exit(f"There is no model at {page} (or it is private: run `hf auth login`).")
    except HFValidationError as error:
        sys.exit(f"{request['repo_id']} cannot be a Hugging Face id: {error}")
    except OfflineModeIsEnabled:
        sys.exit("HF_HUB_OFFLINE forbids the Hugging Face hub; unset it to download.")
    except Exception as error:  # connection errors differ between versions of the hub's client
        reason = " ".join(str(error).split()) or "no reason given"
        sys.exit(f"The Hugging Face hub cannot be reached ({type(error).__name__}: {reason:.200}).")
