"""Turn a run's mean weights into the draft that is shipped, and into a folder that any tool opens.

    python -m training.export --run NAME --ship FOLDER [--folder FOLDER] [--decayed] [--exam]

`--ship` writes what goes into git: int8 layers, configuration and head, or, of a run that learnt a
correction, the correction beside the layers that are there. `--folder` writes the Hugging Face
folder that the app would build of it; `--exam` prints the held-out acceptance before and after the
rounding of what was learnt.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from specdec.models.fetch.shipped_draft import (
    build_folder,
    read_shipped,
    save_correction,
    save_shipped,
)
from training.adapter import corrections
from training.exam import Question, examine
from training.llama import Llama
from training.objective import Head
from training.run import HEAD_IDS, add_export_arguments, checkpoint_of, trained_parameters
from training.teacher import teacher_folder
from training.train import new_draft

Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def read_mean(checkpoint: Path, teacher: Llama) -> Llama:
    """Load the running mean of a checkpoint's weights."""
    state = torch.load(checkpoint)
    made_of = state["made_of"]
    shipped = Path(made_of["shipped"]) if made_of["shipped"] else None
    draft = new_draft(teacher, made_of["layers"], shipped, made_of["rank"])
    with torch.no_grad():
        for parameter, mean in zip(trained_parameters(draft), state["mean"], strict=True):
            parameter.copy_(mean)
    return draft


def folder_tensors(draft: Llama) -> Tensors:
    """Name the draft's tensors as in Hugging Face folders, the embedding left out."""
    return {f"model.{name}": tensor.numpy() for name, tensor in draft.state_dict().items()}


def draft_config(teacher: Path, layers: int) -> dict[str, object]:
    """The teacher's configuration with fewer layers."""
    config: dict[str, object] = json.loads((teacher / "config.json").read_text())
    return config | {"num_hidden_layers": layers}


def ship(draft: Llama, teacher: Path, head: Path, folder: Path) -> None:
    """Write everything that goes into git, except the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    learnt = {name: (up.numpy(), down.numpy()) for name, (up, down) in corrections(draft).items()}
    if learnt:
        save_correction(folder, learnt)
        return
    save_shipped(folder, folder_tensors(draft))
    config = draft_config(teacher, draft.shape.layers)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(head, folder / head.name)


def exam(draft: Llama, shipped: Path, run: Path, head: Head) -> dict[str, dict[str, float]]:
    """Judge the draft on the run's held-out answers, as it was learnt and as it is shipped."""
    questions = [Question(**tensors) for tensors in torch.load(run / "held-out.pt")]
    rounded = Llama(draft.shape, draft.embedding)
    rounded.load_state_dict(
        {
            name.removeprefix("model."): torch.from_numpy(tensor)
            for name, tensor in read_shipped(shipped).items()
        }
    )
    return {
        "learnt": examine(draft, questions, head),
        "shipped": examine(rounded, questions, head),
    }


def main() -> None:
    """Export one run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_export_arguments(parser)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    checkpoint, folder = checkpoint_of(options), teacher_folder(options.teacher)
    teacher = Llama.read(folder)
    draft = read_mean(checkpoint, teacher)
    head_path = checkpoint.parent / HEAD_IDS
    ship(draft, folder, head_path, options.ship)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        build_folder(options.ship, folder, options.folder)
    if options.exam:
        head_ids = torch.from_numpy(np.load(head_path).astype(np.int64))
        figures = exam(draft, options.ship, checkpoint.parent, Head(head_ids, teacher.embedding))
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
