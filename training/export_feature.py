"""Turn a run's mean weights into the feature head that is shipped.

    python -m training.export_feature --run NAME --ship FOLDER [--folder FOLDER] [--exam]

It takes `checkpoint.pt`, or `decayed.pt` with `--decayed`. `--ship` writes what goes into git: the
int8 layer, configuration and token ids. `--folder` writes the folder that the app builds of it,
which vLLM and the "speculators" project open as well (see `specdec/models/eagle3.py`); `--exam`
prints the held-out acceptance, position by position, before and after the rounding.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from specdec.models.fetch.shipped_draft import build_head_folder, read_shipped, save_shipped
from training.exam import examine_feature, prepare_features
from training.feature_head import FeatureHead
from training.features import read_features
from training.llama import Llama
from training.objective import Head
from training.run import HEAD_IDS, add_export_arguments, checkpoint_of, trained_parameters
from training.teacher import HOME, teacher_folder
from training.train_feature import HELD_OUT

VERIFIER = "HuggingFaceTB/SmolLM2-135M-Instruct"
SPECULATIVE_TOKENS = 4


def read_mean(checkpoint: Path, teacher: Llama) -> tuple[FeatureHead, list[int]]:
    """Load the running mean of a checkpoint's weights, and which states it reads."""
    state = torch.load(checkpoint)
    aux = state["made_of"]["aux"]
    head = FeatureHead(teacher.shape, len(aux))
    head.load_state_dict(state["model"])
    with torch.no_grad():
        for parameter, mean in zip(trained_parameters(head), state["mean"], strict=True):
            parameter.copy_(mean)
    return head, aux


def head_config(teacher: Path, aux: list[int], num_rows: int) -> dict[str, object]:
    """The configuration of a head, in the words of the format."""
    of_teacher = json.loads((teacher / "config.json").read_text())
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    names += ("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta")
    names += ("max_position_embeddings", "attention_bias", "mlp_bias")
    proposal = {"proposal_type": "greedy", "speculative_tokens": SPECULATIVE_TOKENS}
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": num_rows,
        "eagle_aux_hidden_state_layer_ids": aux,
        "norm_before_residual": False,
        "torch_dtype": "float32",
        "transformer_layer_config": {name: of_teacher[name] for name in names if name in of_teacher}
        | {"num_hidden_layers": 1, "tie_word_embeddings": False},
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": VERIFIER},
        },
    }


def ship(head: FeatureHead, aux: list[int], teacher: Path, head_ids: Path, folder: Path) -> None:
    """Write everything that goes into git, except the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_shipped(folder, {name: t.numpy() for name, t in head.folder_tensors().items()})
    config = head_config(teacher, aux, len(np.load(head_ids)))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(head_ids, folder / HEAD_IDS)


def exam(head: FeatureHead, shipped: Path, shards: Path, rows: Head) -> dict[str, object]:
    """Judge the head on the held-out answers, as it was learnt and as it is shipped."""
    chosen = [one for one in read_features(min(shards.glob("*.npz"))) if one.held_out][:HELD_OUT]
    questions = prepare_features(chosen, rows, depth=8)
    rounded = FeatureHead(head.shape, len(head.scale) // head.shape.width)
    rounded.take({name: torch.from_numpy(t) for name, t in read_shipped(shipped).items()})
    return {
        "learnt": examine_feature(head, questions, rows),
        "shipped": examine_feature(rounded, questions, rows),
    }


def main() -> None:
    """Export one run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_export_arguments(parser)
    parser.add_argument("--shards", type=Path, default=HOME / "features", help="for the exam")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    checkpoint, teacher = checkpoint_of(options), teacher_folder(options.teacher)
    llama, head_path = Llama.read(teacher), checkpoint.parent / HEAD_IDS
    head, aux = read_mean(checkpoint, llama)
    ship(head, aux, teacher, head_path, options.ship)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        build_head_folder(options.ship, teacher, options.folder)
    if options.exam:
        ids = torch.from_numpy(np.load(head_path).astype(np.int64))
        figures = exam(head, options.ship, options.shards, Head(ids, llama.embedding))
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
