"""Choose the draft's output vocabulary: the tokens that the teacher gives most probability.

    python -m training.head --rows 8192 [--shards FOLDER] [--output FILE]

The embedding being the teacher's own and frozen, a head may be chosen anew at any time, before,
during or after a training, without spoiling anything learnt.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.corpus import Dialogue, read_shards
from training.teacher import HOME

VOCABULARY = 49_152


def teacher_mass(dialogues: Iterable[Dialogue], vocabulary: int) -> npt.NDArray[np.float64]:
    """Sum the teacher's probability of every token over all answers.

    Top tokens count by their probability; a sampled token outside them stands for the tail.
    """
    mass = np.zeros(vocabulary)
    for dialogue in dialogues:
        np.add.at(mass, dialogue.top_ids, np.exp(dialogue.top_logprobs.astype(np.float64)))
        answer = dialogue.ids[dialogue.response_start :]
        outside = (dialogue.top_ids != answer[:, None]).all(axis=1)
        np.add.at(mass, answer[outside], 1.0)
    return mass


def main() -> None:
    """Write the ids of a head, sorted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--shards", type=Path, default=HOME / "shards")
    parser.add_argument("--output", type=Path, default=HOME / "draft_token_ids.npy")
    options = parser.parse_args()
    train = (dialogue for dialogue in read_shards(options.shards) if not dialogue.held_out)
    order = np.argsort(-teacher_mass(train, VOCABULARY), kind="stable")
    np.save(options.output, np.sort(order[: options.rows]).astype(np.int32))


if __name__ == "__main__":
    main()
