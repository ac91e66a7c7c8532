"""Sample new dialogues from the teacher, with the top of its distribution at every answer token.

    nice -n 19 python -m training.generate --shards FOLDER --seed N [--dialogues COUNT]

Half of the questions come from templates, half the teacher writes itself in an open user turn.
Every row of the batch is one dialogue at its own place; each step feeds one token per row, given
or sampled, and a finished row starts the next dialogue at once. The labels cost nothing extra:
they are the distributions that the answers are sampled from. May be cut off at any moment.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from training.corpus import Dialogue, write_shard
from training.llama import Cache, Llama
from training.prompts import EVALUATION, template_question
from training.teacher import HOME, add_teacher_argument, attention_dtype, set_up, teacher_folder

TOP = 16
LONGEST_QUESTION = 80
LONGEST_ANSWER = 160
OWN_QUESTIONS = 0.5
QUESTION_TOP_P, QUESTION_TOP_K = 0.9, 2048
TEMPERATURES, TEMPERATURE_WEIGHTS = (0.0, 0.5, 0.7, 1.0), (20, 10, 35, 35)
BLOCK = 128  # tokens of a vocabulary that are summed up first
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(slots=True)
class Row:
    """One dialogue in the making."""

    temperature: float
    pending: deque[int]  # given tokens, fed before anything is sampled
    writing_question: bool
    ids: list[int]
    response_start: int = 0
    top_ids: list[Tensor] = field(default_factory=list)
    top_logprobs: list[Tensor] = field(default_factory=list)

    def dialogue(self) -> Dialogue:
        """Freeze a finished row."""
        return Dialogue(
            ids=np.array(self.ids, np.uint16),
            response_start=self.response_start,
            temperature=self.temperature,
            top_ids=torch.stack(self.top_ids).numpy().astype(np.uint16),
            top_logprobs=torch.stack(self.top_logprobs).numpy().astype(np.float16),
        )


def choose(
    logits: Tensor,
    likeliest: Tensor,
    temperatures: Tensor,
    nucleus: Tensor,
    generator: torch.Generator,
) -> list[int]:
    """Sample one token for each row.

    Args:
        logits: (rows, vocabulary).
        likeliest: (rows,) token of each, taken at temperature 0.
        temperatures: (rows,).
        nucleus: (rows,) bool, whose tokens come from the likeliest that hold `QUESTION_TOP_P`, and
            of these from the `QUESTION_TOP_K` likeliest.
        generator: of the draws.
    """
    probs = (logits / temperatures.clamp(min=0.01)[:, None]).softmax(-1)
    if nucleus.any():
        ordered, ids = probs[nucleus].topk(min(QUESTION_TOP_K, probs.shape[1]))
        ordered[ordered.cumsum(-1) - ordered >= QUESTION_TOP_P] = 0
        probs[nucleus] = torch.zeros_like(probs[nucleus]).scatter_(-1, ids, ordered)
    # First a block, then a token of it: sums over all of a vocabulary take longer and round more.
    if missing := -probs.shape[1] % BLOCK:
        probs = F.pad(probs, (0, missing))
    blocks = probs.unflatten(-1, (-1, BLOCK))
    block = invert(blocks.sum(-1), generator)
    inside = blocks[torch.arange(len(blocks)), block]
    drawn = block * BLOCK + invert(inside, generator)
    return torch.where(temperatures > 0, drawn, likeliest).tolist()


def invert(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one index for each row of (rows, n) weights, which need not sum to one."""
    edges = weights.double().cumsum(-1)
    at = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64) * edges[:, -1:]
    # Never one without weight: the first edge beyond `at` ends an index that has some.
    return torch.searchsorted(edges, at, right=True)[:, 0]


class Generator:
    """A batch of dialogues that never runs empty."""

    def __init__(
        self,
        teacher: Llama,
        tokenizer: Tokenizer,
        rows: int,
        seed: str,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.teacher, self.tokenizer = teacher, tokenizer
        self.rng = random.Random(seed)
        self.torch_rng = torch.Generator().manual_seed(self.rng.getrandbits(63))
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.opening = self.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        self.answer_opening = self.encode("\n<|im_start|>assistant\n")
        longest = len(self.opening) + LONGEST_QUESTION + len(self.answer_opening) + LONGEST_ANSWER
        self.cache = Cache(teacher.shape, rows, longest + 2, cache_dtype)
        self.forbidden = {text for texts in EVALUATION.values() for text in texts}
        self.open_rows()
        self.rows = [self.start() for _ in range(rows)]

    def encode(self, text: str) -> list[int]:
        """Encode text, special tokens included."""
        return self.tokenizer.encode(text).ids

    def open_rows(self) -> None:
        """Write the opening that all dialogues share into every row, once."""
        rows = self.cache.keys.shape[1]
        for position, token in enumerate(self.opening[:-1]):
            positions = torch.full((rows,), position)
            self.teacher.step(torch.full((rows,), token), positions, self.cache)

    def start(self) -> Row:
        """Begin a dialogue after the shared opening."""
        temperature = self.rng.choices(TEMPERATURES, TEMPERATURE_WEIGHTS)[0]
        if self.rng.random() < OWN_QUESTIONS:
            return Row(temperature, deque(), True, list(self.opening))
        question = self.encode(template_question(self.rng))[:LONGEST_QUESTION]
        pending = deque([*question, self.end, *self.answer_opening])
        return Row(temperature, pending, False, list(self.opening))

    def advance(self) -> list[Dialogue]:
        """Feed every row's last token, extend each by one token, and return what is finished."""
        last = torch.tensor([row.ids[-1] for row in self.rows])
        positions = torch.tensor([len(row.ids) - 1 for row in self.rows])
        hidden = self.teacher.step(last, positions, self.cache)
        sampling = [index for index, row in enumerate(self.rows) if not row.pending]
        for row in self.rows:
            if row.pending:
                row.ids.append(row.pending.popleft())
        logits = hidden[sampling] @ self.teacher.embedding.T
        asking = torch.tensor(
            [self.rows[index].writing_question for index in sampling], dtype=torch.bool
        )
        temperatures = torch.tensor([self.rows[index].temperature for index in sampling])
        temperatures[asking] = 1.0
        top_logits, top_ids = logits.topk(TOP)
        tokens = choose(logits, top_ids[:, 0], temperatures, asking, self.torch_rng)
        top_logprobs = top_logits - logits.logsumexp(-1, keepdim=True)
        finished = []
        for at, index in enumerate(sampling):
            row = self.rows[index]
            if row.writing_question:
                self.extend_question(row, tokens[at])
            elif self.extend_answer(row, tokens[at], top_ids[at], top_logprobs[at]):
                if self.question(row) not in self.forbidden:
                    finished.append(row.dialogue())
                self.rows[index] = self.start()
        return finished

    def question(self, row: Row) -> str:
        """Decode the question of a row that has an answer."""
        until = row.response_start - len(self.answer_opening) - 1
        return self.tokenizer.decode(row.ids[len(self.opening) : until]).strip()

    def extend_question(self, row: Row, token: int) -> None:
        """Let the teacher write its own question until it ends the turn or runs on."""
        if len(row.ids) - len(self.opening) >= LONGEST_QUESTION:
            token = self.end
        row.ids.append(token)
        if token == self.end:
            row.writing_question = False
            row.pending.extend(self.answer_opening)

    def extend_answer(self, row: Row, token: int, top_ids: Tensor, top_logprobs: Tensor) -> bool:
        """Take and label one answer token; true when the answer is finished."""
        if row.response_start == 0:
            row.response_start = len(row.ids)
        row.ids.append(token)
        row.top_ids.append(top_ids)
        row.top_logprobs.append(top_logprobs)
        return row.ids[-1] == self.end or len(row.top_ids) >= LONGEST_ANSWER


def main() -> None:
    """Write shards until the count is reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shards", type=Path, default=HOME / "shards")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--dialogues", type=int, default=4096)
    parser.add_argument("--shard-dialogues", type=int, default=128)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    add_teacher_argument(parser)
    options = parser.parse_args()
    set_up(options.threads)
    torch.set_grad_enabled(False)
    options.shards.mkdir(parents=True, exist_ok=True)
    folder = teacher_folder(options.teacher)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    existing = len(list(options.shards.glob(f"generated-{options.seed}-*.npz")))
    # Seeded by the place in the series: a repeated command goes on instead of repeating itself.
    teacher, seed = Llama.read(folder), f"{options.seed}/{existing}"
    generator = Generator(teacher, tokenizer, options.rows, seed, attention_dtype())
    for number in range(existing, -(-options.dialogues // options.shard_dialogues)):
        finished: list[Dialogue] = []
        while len(finished) < options.shard_dialogues:
            finished += generator.advance()
        write_shard(options.shards / f"generated-{options.seed}-{number:04d}.npz", finished)


if __name__ == "__main__":
    main()
