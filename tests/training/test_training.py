"""The training reads, labels and resumes exactly; needs PyTorch (`training/requirements.txt`)."""

from __future__ import annotations

import argparse
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from specdec.models.fetch.shipped_draft import LAYERS  # noqa: E402
from specdec.models.portable import PortableModel  # noqa: E402
from training import export, generate, train  # noqa: E402
from training.corpus import (  # noqa: E402
    Dialogue,
    collate,
    is_held_out,
    read_shard,
    write_shard,
)
from training.exam import examine, prepare  # noqa: E402
from training.generate import Generator  # noqa: E402
from training.llama import Cache, Llama  # noqa: E402
from training.objective import Head, loss, tempered  # noqa: E402

VOCABULARY = 300


@pytest.fixture(scope="module")
def dialogues(folder: Path, teacher: Llama) -> list[Dialogue]:
    """Some dialogues sampled from the tiny teacher."""
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "LONGEST_ANSWER", 12)
        patch.setattr(generate, "LONGEST_QUESTION", 10)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        generator = Generator(teacher, tokenizer, rows=5, seed="2")
        finished: list[Dialogue] = []
        while len(finished) < 120:
            finished += generator.advance()
    return finished


@pytest.fixture
def full_head(teacher: Llama) -> Head:
    return Head(torch.arange(VOCABULARY), teacher.embedding)


def test_the_torch_model_and_the_portable_backend_compute_the_same(
    folder: Path, teacher: Llama
) -> None:
    ids = list(range(40, 60))
    portable = PortableModel.load(folder)
    expected = portable.forward(ids, portable.new_cache())
    with torch.no_grad():
        found = teacher(torch.tensor([ids]))[0] @ teacher.embedding.T
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_feeding_tokens_one_by_one_at_different_places_equals_feeding_rows(teacher: Llama) -> None:
    long, short = torch.arange(30, 42), torch.arange(90, 97)
    cache = Cache(teacher.shape, 2, 16)
    with torch.no_grad():
        for position, token in enumerate(long):
            other = min(position, len(short) - 1)
            ids, places = torch.stack([token, short[other]]), torch.tensor([position, other])
            hidden = teacher.step(ids, places, cache)
        torch.testing.assert_close(hidden[0], teacher(long[None])[0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(hidden[1], teacher(short[None])[0, -1], atol=1e-4, rtol=1e-4)


def test_every_label_is_the_teachers_distribution_before_that_token(
    teacher: Llama, dialogues: list[Dialogue]
) -> None:
    for dialogue in dialogues[:20]:
        ids = torch.from_numpy(dialogue.ids.astype(np.int64))
        with torch.no_grad():
            logits = teacher(ids[None, :-1])[0] @ teacher.embedding.T
        expected = logits[dialogue.response_start - 1 :].log_softmax(-1)
        found = torch.from_numpy(dialogue.top_logprobs.astype(np.float32))
        at = torch.from_numpy(dialogue.top_ids.astype(np.int64))
        torch.testing.assert_close(expected.gather(-1, at), found, atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("size", [5, generate.BLOCK, 2 * generate.BLOCK + 3])
def test_tokens_are_drawn_from_the_distribution_that_is_asked_for(size: int) -> None:
    torch.manual_seed(size)
    logits, draws = 2 * torch.randn(4, size), 20_000
    logits[:, 0] = -torch.inf
    temperatures = torch.tensor([0.0, 0.5, 1.0, 1.0])
    nucleus = torch.tensor([False, False, False, True])
    probs = (logits / temperatures.clamp(min=1e-3)[:, None]).softmax(-1)
    ordered, ids = probs[3].sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= generate.QUESTION_TOP_P] = 0
    probs[3] = torch.zeros(size).scatter(0, ids, ordered / ordered.sum())
    rng = torch.Generator().manual_seed(1)
    rows = torch.arange(4).repeat(draws)
    tokens = generate.choose(
        logits[rows], logits.argmax(-1)[rows], temperatures[rows], nucleus[rows], rng
    )
    counts = torch.zeros(4, size).index_put(
        (rows, torch.tensor(tokens)), torch.ones(len(rows)), accumulate=True
    )
    assert set(counts[0].nonzero().flatten().tolist()) == {int(logits[0].argmax())}
    assert not counts[probs == 0].any()
    # Five standard deviations of each count, and a half for rounding.
    bound = 5 * (draws * probs * (1 - probs)).sqrt() + 0.5
    assert (counts - draws * probs).abs().le(bound).all()


def test_a_question_of_the_evaluation_is_thrown_away(
    folder: Path, teacher: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "LONGEST_ANSWER", 3)
    monkeypatch.setattr(generate, "OWN_QUESTIONS", 0)
    monkeypatch.setattr(generate, "template_question", lambda rng: "in the tin")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.no_grad():
        generator = Generator(teacher, tokenizer, rows=2, seed="1")
        assert any(generator.advance() for _ in range(40))
        generator.forbidden = {"in the tin"}
        assert not any(generator.advance() for _ in range(40))


def test_greedy_answers_follow_the_top_label(dialogues: list[Dialogue]) -> None:
    greedy = [dialogue for dialogue in dialogues if dialogue.temperature == 0]
    assert greedy
    for dialogue in greedy:
        answer = dialogue.ids[dialogue.response_start :]
        np.testing.assert_array_equal(answer, dialogue.top_ids[:, 0])


def test_a_shard_returns_what_was_written(tmp_path: Path, dialogues: list[Dialogue]) -> None:
    write_shard(tmp_path / "shard.npz", dialogues)
    for read, written in zip(read_shard(tmp_path / "shard.npz"), dialogues, strict=True):
        np.testing.assert_array_equal(read.ids, written.ids)
        np.testing.assert_array_equal(read.top_logprobs, written.top_logprobs)
        assert read.response_start == written.response_start


def test_answers_to_one_prompt_fall_on_the_same_side(dialogues: list[Dialogue]) -> None:
    prompts = [dialogue.ids[: dialogue.response_start] for dialogue in dialogues]
    sides = [is_held_out(prompt) for prompt in prompts]
    assert set(sides) == {True, False}
    assert sides == [is_held_out(prompt.astype(np.int64)) for prompt in prompts]
    other = [replace(one, ids=np.append(one.ids, one.ids[-1])) for one in dialogues]
    assert sides == [dialogue.held_out for dialogue in other]


def test_the_teacher_passes_its_own_exam(
    teacher: Llama, dialogues: list[Dialogue], full_head: Head
) -> None:
    figures = examine(teacher, prepare(teacher, dialogues[:16]), full_head)
    assert figures["all_0.0"] == 1
    assert figures["all_1.0"] == pytest.approx(1, abs=1e-3)
    assert figures["all_0.7"] == pytest.approx(1, abs=1e-3)


def test_a_reduced_head_costs_exactly_the_mass_outside_it(
    teacher: Llama, dialogues: list[Dialogue]
) -> None:
    head = Head(torch.arange(0, VOCABULARY, 2), teacher.embedding)
    questions = prepare(teacher, dialogues[:16])
    inside = []
    for question in questions:
        logits = question.hidden @ teacher.embedding.T
        inside.append(logits.softmax(-1)[:, head.ids].sum(-1))
    figures = examine(teacher, questions, head)
    assert figures["all_1.0"] == pytest.approx(torch.cat(inside).mean().item(), abs=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.4])
def test_tempering_all_tokens_is_dividing_the_logits(temperature: float) -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    ordered = logits.log_softmax(-1).sort(descending=True).values
    expected = (logits / temperature).softmax(-1).sort(descending=True).values
    torch.testing.assert_close(tempered(ordered, temperature), expected)


@pytest.mark.parametrize("overlap_weight", [0.0, 0.5])
def test_no_other_logits_cost_less_than_the_teachers(
    teacher: Llama, dialogues: list[Dialogue], full_head: Head, overlap_weight: float
) -> None:
    batch = collate([dialogue for dialogue in dialogues if dialogue.temperature == 0][:8])
    with torch.no_grad():
        own = teacher(batch.ids)[batch.predicts] @ full_head.rows.T
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
        best = loss(own, batch, full_head, overlap_weight)
        assert best < loss(own + noise, batch, full_head, overlap_weight)


@pytest.fixture
def options(
    tmp_path: Path, folder: Path, dialogues: list[Dialogue], monkeypatch: pytest.MonkeyPatch
) -> argparse.Namespace:
    """A run on the tiny teacher, in a home of its own."""
    monkeypatch.setattr(train, "HOME", tmp_path)
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "one.npz", dialogues)
    np.save(tmp_path / "head.npy", np.arange(0, VOCABULARY, 2, dtype=np.int32))
    line = f"--run tiny --shards {shards} --head {tmp_path / 'head.npy'} --teacher {folder}"
    return train.parse([*line.split(), "--layers", "0,2", "--rate", "4e-3"])


def steps(run: train.Run, count: int) -> list[float]:
    batches = run.batches()
    return [run.learn(next(batches))[0] for _ in range(count)]


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(options: argparse.Namespace) -> None:
    first = train.Run(options)
    steps(first, 3)
    first.save()
    expected = steps(first, 40)
    options.resume = True
    assert steps(train.Run(options), 40) == expected


def test_held_out_prompts_are_never_trained_on(options: argparse.Namespace) -> None:
    run = train.Run(options)
    held = {prompt.tobytes() for prompt in held_out_prompts(options.shards)}
    assert held
    for _, batch in zip(range(60), run.batches(), strict=False):
        for row in batch.ids.numpy().astype("<u2"):
            assert not any(row.tobytes().startswith(prompt) for prompt in held)


def held_out_prompts(shards: Path) -> list[np.ndarray]:
    found = []
    for path in shards.glob("*.npz"):
        for dialogue in read_shard(path):
            prompt = dialogue.ids[: dialogue.response_start].astype("<u2")
            if zlib.crc32(prompt.tobytes()) % 40 == 0:
                found.append(prompt)
    return found


def test_training_teaches(options: argparse.Namespace) -> None:
    run = train.Run(options)
    before = run.judge()["all_1.0"]
    steps(run, 80)
    assert run.judge()["all_1.0"] > before + 0.02


def test_a_correction_is_learnt_and_shipped_beside_its_layers(
    options: argparse.Namespace, folder: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped"
    export.ship(train.Run(options).draft.requires_grad_(False), folder, options.head, shipped)
    layers = (shipped / LAYERS).read_bytes()
    options.run, options.shipped, options.rank = "correction", shipped, 4
    run = train.Run(options)
    before = run.judge()["all_1.0"]
    steps(run, 80)
    assert run.judge()["all_1.0"] > before + 0.02
    run.save()
    learnt = export.read_mean(run.folder / "checkpoint.pt", Llama.read(folder))
    export.ship(learnt.requires_grad_(False), folder, options.head, shipped)
    assert (shipped / LAYERS).read_bytes() == layers
    figures = export.exam(learnt, shipped, run.folder, run.head)
    assert figures["shipped"]["all_1.0"] == pytest.approx(figures["learnt"]["all_1.0"], abs=2e-3)


def test_the_log_is_one_json_object_a_line(options: argparse.Namespace) -> None:
    run = train.Run(options)
    run.write_log({"event": "start"})
    run.write_log({"step": 1})
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [["time", "event"], ["time", "step"]]
