"""The tokenizer of a target that is elsewhere, wherever it is found."""

from __future__ import annotations

from datetime import datetime

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from specdec.errors import ModelError
from specdec.targets.server import remote as remote_module
from specdec.targets.server.remote import open_remote
from specdec.targets.server.vocabulary import TOKENIZER_FILES, load_target_tokenizer
from tests.models.tiny import write_tiny_tokenizer
from tests.targets.server.toy_server import ToyServer
from tests.toy_tokenizers import write_toy_tokenizer

ASCII = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
HARMONY_TOKENS = ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"]


def spelled(tokenizer, ids) -> str:
    return b"".join(map(tokenizer.token_bytes, ids)).decode()


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_folder_and_its_tokenizer_json_are_the_same(tmp_path, name):
    write_tiny_tokenizer(tmp_path)
    tokenizer = load_target_tokenizer(str(tmp_path / name))
    assert tokenizer.vocab_size == 300
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "the tin"}])
    assert spelled(tokenizer, prompt) == (
        "<|im_start|>user\nthe tin<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_gpt_oss_tokenizer_without_its_template_speaks_harmony(tmp_path):
    write_toy_tokenizer(tmp_path, ASCII, control=HARMONY_TOKENS)
    tokenizer = load_target_tokenizer(str(tmp_path))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Say <|end|>!"}])
    today = datetime.now().strftime("%Y-%m-%d")
    assert spelled(tokenizer, prompt) == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        f"Knowledge cutoff: 2024-06\nCurrent date: {today}\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every "
        "message.<|end|><|start|>user<|message|>Say <|end|>!<|end|><|start|>assistant"
    )
    control = {name: len(ASCII) + place for place, name in enumerate(HARMONY_TOKENS)}
    assert prompt.count(control["<|start|>"]) == 3
    assert prompt.count(control["<|end|>"]) == 2  # what the user typed stays text
    assert tokenizer.eos_token_ids == {control["<|return|>"], control["<|call|>"]}


def test_a_template_of_its_own_is_kept(tmp_path):
    write_toy_tokenizer(tmp_path, ASCII, control=HARMONY_TOKENS, template="own")
    tokenizer = load_target_tokenizer(str(tmp_path))
    assert spelled(tokenizer, tokenizer.apply_chat_template([])) == "own"


def test_another_tokenizer_without_a_template_stays_without(tmp_path):
    write_toy_tokenizer(tmp_path, ASCII, control=["<|end|>"])
    assert not load_target_tokenizer(str(tmp_path)).has_chat_template


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/such/tokenizer.json"])
def test_a_name_that_means_nothing_says_what_may_be_set(name):
    with pytest.raises(ModelError, match="set the endpoint's tokenizer to a folder"):
        load_target_tokenizer(name)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the hub's client: first without, then with the network."""
    asked = []

    def answer_with(*answers):
        queue = list(answers)

        def snapshot_download(repo_id, **options):
            asked.append((repo_id, options))
            answer = queue.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answer_with


def test_of_a_repository_only_the_tokenizer_is_fetched_and_only_once(hub, tmp_path):
    write_tiny_tokenizer(tmp_path)
    asked = hub(LocalEntryNotFoundError("not here"), tmp_path)
    assert load_target_tokenizer("openai/gpt-oss-120b").vocab_size == 300
    assert [(repo, o["local_files_only"]) for repo, o in asked] == [
        ("openai/gpt-oss-120b", True),
        ("openai/gpt-oss-120b", False),
    ]
    assert all(options["allow_patterns"] == TOKENIZER_FILES for _, options in asked)
    assert not any("safetensors" in pattern for pattern in TOKENIZER_FILES)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([LocalEntryNotFoundError("no"), OSError("no route")], r"\(OSError: no route\)"),
        ([LocalEntryNotFoundError("no")] * 2, "No tokenizer.json of org/model is on this machine"),
    ],
)
def test_a_tokenizer_that_cannot_be_fetched_says_what_to_set(hub, answers, words):
    hub(*answers)
    with pytest.raises(ModelError, match=words) as caught:
        load_target_tokenizer("org/model")
    assert str(caught.value).endswith("tokenizer to a local folder or tokenizer.json.")


def test_a_repository_without_a_tokenizer_is_no_tokenizer(hub, tmp_path):
    hub(tmp_path, tmp_path)
    with pytest.raises(ModelError, match=r"No tokenizer\.json of org/model"):
        load_target_tokenizer("org/model")


def test_an_endpoint_opens_with_the_tokenizer_of_its_model(httpserver, endpoint, tmp_path):
    write_tiny_tokenizer(tmp_path)
    tokenizer = load_target_tokenizer(str(tmp_path))
    ToyServer(tokenizer, owner="vllm").mount(httpserver)
    target = open_remote(endpoint(tokenizer=str(tmp_path), protocol="prefixes"))
    assert (target.capabilities.vocab_size, target.backend) == (300, "prefixes")


def test_without_its_key_an_endpoint_fetches_nothing(endpoint, monkeypatch):
    monkeypatch.setattr(remote_module, "load_target_tokenizer", pytest.fail)
    with pytest.raises(ValueError, match="set LAB_KEY in"):
        open_remote(endpoint(key_variable="LAB_KEY"))
