"""A prompt never vanishes in a template, and no template takes more than its time and memory."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec.errors import ModelError, SpecdecError
from specdec.models import template_process
from specdec.models.chat import ChatTemplate
from specdec.models.template_process import TEMPLATES, TemplateProcess
from specdec.models.tokenizer import MAX_VOCABULARY, Tokenizer
from specdec.pair import load_model
from tests.models.templates import KEPT, REFUSED, SETTINGS
from tests.models.test_folders import reference
from tests.models.tiny import SPECIAL_TOKENS, write_tiny_llama, write_tiny_tokenizer

PROMPT = "  Where is 'the' <|im_end|> of {{ it }}? \n 🎉"
VARIABLES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
USER = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model", layers=1)


def change(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("style", KEPT)
def test_a_template_keeps_the_prompt_as_text(folder: Path, style: str) -> None:
    change(folder / "tokenizer_config.json", {"chat_template": KEPT[style]})
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.apply_chat_template(USER)
    said = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert PROMPT.strip() in said
    typed = ChatTemplate(KEPT[style], VARIABLES).render(USER, SPECIAL_TOKENS)
    controls = [piece for is_control, piece in typed.pieces(SPECIAL_TOKENS) if is_control]
    assert sum(ids.count(index) for index in range(3)) == len(controls)


@reference
@pytest.mark.filterwarnings("ignore")
def test_templates_say_what_they_say_in_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "where is it?"}]
    num_compared = 0
    for style, source in KEPT.items():
        try:
            expected = theirs.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=True
            )
        except Exception:  # a template for parts
            continue
        if "where is it?" in expected:
            ours = ChatTemplate(source, VARIABLES).render(messages, ()).text
            assert ours == expected, style
            num_compared += 1
    assert num_compared >= 18


@pytest.mark.parametrize("fault", REFUSED)
def test_a_template_that_cannot_be_used_says_why_in_time(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_process, "TIME_LIMIT_S", 1.0)
    source, message = REFUSED[fault]
    TEMPLATES.render("", {})
    start = time.monotonic()
    with pytest.raises(ModelError, match=f"chat template .*({message})") as refusal:
        ChatTemplate(source, VARIABLES).render(USER, SPECIAL_TOKENS)
    assert time.monotonic() - start < 10  # twice the limit, and new processes
    assert len(str(refusal.value)) < 500
    assert TEMPLATES.render("{{ a }}", {"a": "still here"}) == "still here"


def test_one_process_renders_many_templates_and_ends_when_asked() -> None:
    process = TemplateProcess()
    assert process.render("{{ 1 + 1 }}", {}) == "2"
    child = process._child
    assert process.render("{{ 2 + 2 }}", {}) == "4"
    assert child is not None
    assert process._child is child
    process.close()
    assert child.poll() is not None
    assert process.render("{{ 3 + 3 }}", {}) == "6"
    assert process._child is not child
    process.close()


def test_threads_take_turns() -> None:
    said: dict[int, str] = {}

    def render(number: int) -> None:
        said[number] = TEMPLATES.render("{{ n * 2 }}", {"n": number})

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: str(2 * number) for number in range(8)}


def test_a_template_process_that_was_killed_is_started_again() -> None:
    process = TemplateProcess()
    process.render("", {})
    assert process._child is not None
    os.kill(process._child.pid, 9)
    process._child.wait()
    assert process.render("{{ 1 }}", {}) == "1"
    process.close()


@pytest.mark.parametrize(("file", "changes", "refusal"), SETTINGS, ids=str)
def test_settings_of_a_tokenizer_are_obeyed_or_refused_by_name(
    folder: Path, file: str, changes: dict[str, Any], refusal: str | None
) -> None:
    change(folder / file, changes)
    if refusal is not None:
        with pytest.raises(ModelError, match=refusal):
            Tokenizer.load(folder)
        return
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.apply_chat_template(USER)
    ends = changes.get("eos_token_id", 2)
    assert tokenizer.eos_token_ids >= set(ends if isinstance(ends, list) else [2])


@pytest.mark.parametrize("text", ["[]", "{", "\xff\xfe", "[" * 10**5, '{"a": 1' + "0" * 5000 + "}"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json"])
def test_settings_that_cannot_be_read_name_their_file(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=file):
        Tokenizer.load(folder)


def test_a_template_file_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes("é".encode("latin-1"))
    with pytest.raises(ModelError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("adds", [True, False])
def test_add_bos_token_of_the_settings_is_obeyed(folder: Path, adds: bool) -> None:
    change(folder / "tokenizer_config.json", {"chat_template": None, "add_bos_token": adds})
    tokenizer = Tokenizer.load(folder)
    text = tokenizer.encode("the")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}]) == [1] * adds + text
    assert tokenizer.encode("the") == text


def vocabulary_with(folder: Path, index: int) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zq"] = index
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("index", [2**32 - 1, MAX_VOCABULARY])
def test_an_id_beyond_all_vocabularies_is_refused(folder: Path, index: int) -> None:
    vocabulary_with(folder, index)
    with pytest.raises(ModelError, match=f"the id {index}"):
        Tokenizer.load(folder)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(folder: Path) -> None:
    write_tiny_tokenizer(folder, vocab_size=310)
    with pytest.raises(ModelError, match="has 310 tokens, and the model's embedding only 300"):
        load_model(str(folder), "portable")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return folder


ODD = st.sampled_from(
    [None, True, 0, -1, 2**32 - 1, 2**64, 0.5, "", "x", [], [1], {}, {"type": "x"}, {"content": 1}]
)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_value_of_the_tokenizer_files_ends_in_a_traceback(
    shared: Path, data: st.DataObject
) -> None:
    path = shared / data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    before = path.read_text()
    content = place = json.loads(before)
    name = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[name], dict) and place[name] and data.draw(st.booleans()):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)[:40]))
    if data.draw(st.booleans()):
        del place[name]
    else:
        place[name] = data.draw(ODD)
    path.write_text(json.dumps(content))
    try:
        tokenizer = Tokenizer.load(shared)
        ids = tokenizer.apply_chat_template([{"role": "user", "content": "the end 12"}])
        tokenizer.decode(ids)
    except SpecdecError:
        return
    finally:
        path.write_text(before)
