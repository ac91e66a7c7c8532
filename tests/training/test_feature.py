"""A feature head is trained on what it will compute; needs PyTorch."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from specdec.drafters.feature import FeatureContext  # noqa: E402
from specdec.models.eagle3 import HeadWeights, is_feature_head  # noqa: E402
from specdec.models.feature_head import FeatureHead as AppHead  # noqa: E402
from specdec.models.fetch.shipped_draft import build_head_folder  # noqa: E402
from training import export_feature, train_feature  # noqa: E402
from training.corpus import Dialogue, answer_positions  # noqa: E402
from training.exam import examine_feature, prepare_features  # noqa: E402
from training.feature_batch import collate_features, lay_out  # noqa: E402
from training.feature_head import FeatureHead, from_teacher  # noqa: E402
from training.features import (  # noqa: E402
    Watched,
    alike,
    in_order,
    read_features,
    watch,
    write_features,
)
from training.llama import Llama  # noqa: E402
from training.objective import Head, Mismatch, tempered_laws  # noqa: E402

VOCABULARY = 300
AUX = (1, 2, 3)
WIDTH = 32


@pytest.fixture(scope="module")
def dialogues(teacher: Llama) -> list[Dialogue]:
    """Greedy answers of the tiny teacher to random prompts, with the labels of a shard."""
    rng = np.random.default_rng(0)
    finished = []
    with torch.no_grad():
        for _ in range(100):
            prompt = rng.integers(3, VOCABULARY, rng.integers(3, 6)).tolist()
            ids, rows = list(prompt), []
            for _ in range(rng.integers(4, 9)):
                logits = teacher(torch.tensor([ids]))[0, -1] @ teacher.embedding.T
                rows.append(logits.log_softmax(-1).topk(8))
                ids.append(int(rows[-1].indices[0]))
            finished.append(
                Dialogue(
                    ids=np.array(ids, np.uint16),
                    response_start=len(prompt),
                    temperature=0.0,
                    top_ids=torch.stack([row.indices for row in rows]).numpy().astype(np.uint16),
                    top_logprobs=torch.stack([row.values for row in rows])
                    .numpy()
                    .astype(np.float16),
                )
            )
    return finished


@pytest.fixture(scope="module")
def watched(teacher: Llama, dialogues: list[Dialogue]) -> list[Watched]:
    return watch(teacher, dialogues, AUX)


@pytest.fixture
def head(teacher: Llama) -> Head:
    return Head(torch.arange(0, VOCABULARY, 2), teacher.embedding)


def test_a_shard_of_features_returns_what_was_written(
    tmp_path: Path, watched: list[Watched]
) -> None:
    write_features(tmp_path / "0000.npz", watched)
    read = list(read_features(tmp_path / "0000.npz"))
    assert len(read) == len(watched)
    for one, other in zip(read, watched, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.hidden, other.hidden)
        np.testing.assert_array_equal(one.final, other.final)


def test_features_are_the_teachers_states_and_its_laws_follow_from_them(
    teacher: Llama, watched: list[Watched]
) -> None:
    for one in watched[:10]:
        ids = torch.from_numpy(one.ids.astype(np.int64))[None]
        x, angles = teacher.embedding[ids], teacher.angles(torch.arange(ids.shape[1])[None])
        for index, layer in enumerate(teacher.layers):
            x = layer(x, angles)
            np.testing.assert_allclose(one.hidden[:, index], x[0].detach(), atol=2e-2, rtol=2e-3)
        logits = torch.from_numpy(one.final.astype(np.float32)) @ teacher.embedding.T
        np.testing.assert_array_equal(logits.argmax(-1), one.ids[one.response_start :])


def test_answers_that_were_labelled_more_or_less_deeply_fit_into_one_shard(
    teacher: Llama, dialogues: list[Dialogue], tmp_path: Path
) -> None:
    first, second = dialogues[:2]
    deeper = replace(
        second,
        top_ids=np.tile(second.top_ids, 2),
        top_logprobs=np.tile(second.top_logprobs, 2),
    )
    fewest = alike([first, deeper])
    write_features(tmp_path / "0.npz", watch(teacher, fewest, (1, 2)))
    for read, expected in zip(read_features(tmp_path / "0.npz"), (first, second), strict=True):
        np.testing.assert_array_equal(read.top_ids, expected.top_ids)
        np.testing.assert_array_equal(read.top_logprobs, expected.top_logprobs)


def test_the_held_out_answers_come_first_and_none_is_lost(dialogues: list[Dialogue]) -> None:
    ordered = [one for shard in in_order(dialogues, seed=0) for one in shard]
    sides = [one.held_out for one in ordered]
    assert sides == sorted(sides, reverse=True)
    assert {one.ids.tobytes() for one in ordered} == {one.ids.tobytes() for one in dialogues}


def draft_step_by_step(
    feature_head: FeatureHead, embedded: torch.Tensor, hidden: torch.Tensor, start: int, steps: int
) -> torch.Tensor:
    """Draft after token `start` + 1 as an engine does, one token at a time, in plain words."""
    layer, shape = feature_head.layers[0], feature_head.shape
    attention, head_width = layer.self_attn, shape.head_width

    def heads(x: torch.Tensor, position: int) -> torch.Tensor:
        halves = x.view(-1, 2, head_width // 2)
        turns = position * shape.rope_theta ** -(torch.arange(0, head_width, 2) / head_width)
        low, high = halves[:, 0], halves[:, 1]
        return torch.cat(
            (low * turns.cos() - high * turns.sin(), high * turns.cos() + low * turns.sin()), dim=-1
        )

    keys, values, outputs = [], [], []
    feature = None
    for place in range(start + steps):
        if place <= start:
            feature = (hidden[place] / feature_head.scale) @ feature_head.fc.weight.T
        joined = torch.cat(
            (layer.input_layernorm(embedded[place + 1]), layer.hidden_norm(feature)), dim=-1
        )
        keys.append(heads(joined @ attention.k_proj.weight.T, place))
        values.append((joined @ attention.v_proj.weight.T).view(-1, head_width))
        queries = heads(joined @ attention.q_proj.weight.T, place)
        mixed = []
        for number, query in enumerate(queries):
            kv = number // (shape.heads // shape.kv_heads)
            scores = torch.stack([query @ key[kv] / math.sqrt(head_width) for key in keys])
            weights = scores.softmax(-1)
            mixed.append(sum(w * value[kv] for w, value in zip(weights, values, strict=True)))
        out = feature + torch.cat(mixed) @ attention.o_proj.weight.T
        out = out + layer.mlp(layer.post_attention_layernorm(out))
        if place >= start:
            outputs.append(feature_head.norm(out))
            feature = out
    return torch.stack(outputs)


@pytest.mark.parametrize("stride", [1, 3])
def test_unrolled_steps_are_what_drafting_computes(
    teacher: Llama, watched: list[Watched], head: Head, stride: int
) -> None:
    torch.manual_seed(1)
    feature_head = from_teacher(teacher, len(AUX), layer=1)
    for parameter in feature_head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    feature_head.scale.uniform_(0.5, 2)
    batch = collate_features(watched[:5], head, depth=3, stride=stride, offset=1 % stride)
    embedded = teacher.embedding[batch.ids]
    with torch.no_grad():
        outputs = feature_head(embedded, batch.hidden, batch.places)
        assert len(outputs[2]) > 3
        for step, (output, place) in enumerate(zip(outputs, batch.places, strict=True)):
            for found, row, start in list(zip(output, place.rows, place.times, strict=True))[::3]:
                expected = draft_step_by_step(
                    feature_head, embedded[row], batch.hidden[row], int(start), step + 1
                )[-1]
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_every_place_is_to_find_the_law_after_the_token_that_it_read(
    watched: list[Watched], head: Head
) -> None:
    chosen = watched[:6]
    predicts = answer_positions(chosen)
    places, answers = lay_out(predicts, depth=4, stride=2, offset=1)
    rows, times = predicts.nonzero(as_tuple=True)
    assert len(answers[0]) == len(rows)
    for step, (place, answer) in enumerate(zip(places, answers, strict=True)):
        torch.testing.assert_close(rows[answer], place.rows)
        torch.testing.assert_close(times[answer], place.times + 1 + step)
        if step:
            before = places[step - 1]
            torch.testing.assert_close(before.rows[place.follows], place.rows)
            torch.testing.assert_close(before.times[place.follows], place.times)
    assert [len(answer) for answer in answers] == sorted(map(len, answers), reverse=True)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (0.7, 0.5), (1.0, 1.0)])
def test_the_written_out_gradient_is_that_of_the_formula(temperature: float, weight: float) -> None:
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(300, 5, generator=draw, dtype=torch.double, requires_grad=True)
    rows = torch.randn(11, 5, generator=draw, dtype=torch.double)
    laws, cool = (torch.rand(9, 11, generator=draw, dtype=torch.double) / 6 for _ in range(2))
    answers = torch.randint(9, (300,), generator=draw)
    value = Mismatch.apply(outputs, rows, laws, cool, answers, temperature, weight)
    (found,) = torch.autograd.grad(value, outputs)
    logits = outputs @ rows.T
    entropy = -(laws[answers] * logits.log_softmax(-1)).sum()
    overlap = torch.minimum(cool[answers], (logits / temperature).softmax(-1)).sum(-1)
    formula = (1 - weight) * entropy - weight * (overlap + 1e-3).log().sum()
    (expected,) = torch.autograd.grad(formula, outputs)
    torch.testing.assert_close(value.detach(), formula.detach())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_laws_of_the_head_are_the_teachers_own(
    teacher: Llama, watched: list[Watched], temperature: float
) -> None:
    """With 8 labels a little of the tail outside the head is unknown below temperature 1."""
    head = Head(torch.arange(0, VOCABULARY, 2), teacher.embedding)
    batch = collate_features(watched[:5], head, depth=1, stride=1, offset=0)
    logits = batch.final @ teacher.embedding.T
    found = tempered_laws(logits[:, head.ids], batch.log_sum, batch.outside, temperature)
    expected = (logits / temperature).softmax(-1)[:, head.ids]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.1)


def test_a_folder_gives_back_the_head_whatever_the_scale(teacher: Llama) -> None:
    first, second = (from_teacher(teacher, len(AUX), layer=1) for _ in range(2))
    first.scale.uniform_(0.5, 2)
    second.scale.uniform_(3, 5)
    second.take(first.folder_tensors())
    states = torch.randn(4, len(AUX) * WIDTH)
    torch.testing.assert_close(second.fc(states / second.scale), first.fc(states / first.scale))


@pytest.fixture
def options(
    tmp_path: Path, folder: Path, watched: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> argparse.Namespace:
    monkeypatch.setattr(train_feature, "HOME", tmp_path)
    shards = tmp_path / "features"
    shards.mkdir()
    ordered = sorted(watched, key=lambda one: not one.held_out)
    assert ordered[0].held_out
    write_features(shards / "0000.npz", ordered[:60])
    write_features(shards / "0001.npz", ordered[60:])
    np.save(tmp_path / "head.npy", np.arange(0, VOCABULARY, 2, dtype=np.int32))
    line = f"--run tiny --shards {shards} --head {tmp_path / 'head.npy'} --teacher {folder}"
    line += " --aux 1,2,3 --layer 2 --rate 4e-3 --depth 3 --batch-tokens 150"
    return train_feature.parse(line.split())


def steps(run: train_feature.FeatureRun, count: int) -> list[float]:
    batches = run.batches()
    return [run.learn(next(batches))[0] for _ in range(count)]


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(options: argparse.Namespace) -> None:
    first = train_feature.FeatureRun(options)
    steps(first, 2)
    first.save()
    expected = steps(first, 12)
    options.resume = True
    second = train_feature.FeatureRun(options)
    assert steps(second, 12) == expected
    assert second.judge() == first.judge()


def test_held_out_answers_are_never_trained_on(options: argparse.Namespace) -> None:
    run = train_feature.FeatureRun(options)
    names = [path.name for path in options.shards.glob("*.npz")]
    assert run.questions
    assert not any(one.held_out for one in run.read(names))


def test_training_teaches_every_step(options: argparse.Namespace) -> None:
    """What it was shown; a random teacher's few answers tell nothing about others."""
    run = train_feature.FeatureRun(options)
    names = [path.name for path in options.shards.glob("*.npz")]
    run.questions = prepare_features(run.read(names), run.head, options.depth)
    before = run.judge()
    steps(run, 120)
    after = run.judge()
    for position in range(3):
        assert after["all_1.0"][position] > before["all_1.0"][position] + 0.02


def test_the_exam_of_the_teachers_own_states_is_passed(
    teacher: Llama, watched: list[Watched]
) -> None:
    """A head that puts out what the teacher does there agrees with it fully."""
    head = Head(torch.arange(VOCABULARY), teacher.embedding)
    questions = prepare_features(watched[:8], head, depth=2)

    class Knowing(torch.nn.Module):
        def forward(self, embedded, hidden, places):
            question = next(q for q in questions if q.batch.places is places)
            return [question.batch.final[answers] for answers in question.batch.answers]

    figures = examine_feature(Knowing(), questions, head)
    assert figures["all_0.0"] == [1, 1]
    assert figures["all_1.0"] == pytest.approx([1, 1], abs=1e-3)


def test_what_is_shipped_drafts_in_the_app_what_was_learnt(
    options: argparse.Namespace, folder: Path, teacher: Llama, tmp_path: Path
) -> None:
    """The app opens the exported folder and computes the exam's logits, rounding aside."""
    run = train_feature.FeatureRun(options)
    run.feature_head.scale.uniform_(0.5, 2)
    run.save()
    learnt, aux = export_feature.read_mean(run.folder / "checkpoint.pt", teacher)
    learnt.requires_grad_(False)
    shipped, opened = tmp_path / "shipped", tmp_path / "opened"
    export_feature.ship(learnt, aux, folder, options.head, shipped)
    opened.mkdir()
    build_head_folder(shipped, folder, opened)
    assert is_feature_head(opened)
    head = AppHead("head", HeadWeights.load(opened), teacher.embedding.numpy())
    question = run.questions[0]
    batch = question.batch
    outputs = learnt(teacher.embedding[batch.ids], batch.hidden, batch.places)
    for step, place in enumerate(batch.places):
        row, start = int(place.rows[0]), int(place.times[0])
        context = FeatureContext(head)
        states = batch.hidden[row, : start + 1].view(start + 1, len(AUX), -1).numpy()
        text = batch.ids[row].tolist()
        for end in range(start + 2, start + 3 + step):
            logits = context.score(context.read(text[:end], states))[-1]
        expected = (outputs[step][0] @ run.head.rows.T).numpy()
        np.testing.assert_allclose(logits[run.head.ids.numpy()], expected, atol=0.15)
        assert np.corrcoef(logits[run.head.ids.numpy()], expected)[0, 1] > 0.998
    figures = export_feature.exam(learnt, shipped, options.shards, run.head)
    for kind in ("all_1.0", "all_0.7"):
        assert figures["shipped"][kind] == pytest.approx(figures["learnt"][kind], abs=5e-3)
