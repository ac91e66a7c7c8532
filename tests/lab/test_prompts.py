"""Prompts come from classes and files; what cannot be used is refused with its place."""

from __future__ import annotations

import json

import pytest

from specdec.errors import SettingsError
from specdec.lab.prompts import CLASSES, OWN, Prompt, built_in, read_prompts


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_class_has_eight_different_prompts():
    assert set(CLASSES) == {"code", "prose", "list", "summary", "question"}
    texts = [text for kind in CLASSES.values() for text in kind]
    assert len(texts) == len(set(texts)) == 40
    assert built_in(["code", "list"], 1) == [
        Prompt(CLASSES["code"][0], "code"),
        Prompt(CLASSES["list"][0], "list"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "One\nmore\n\n\nTwo\n", [Prompt("One\nmore"), Prompt("Two")]),
        ("a.txt", "\ufeffOne\r\n\r\nTwo", [Prompt("One"), Prompt("Two")]),
        ("a.TXT", "One", [Prompt("One")]),
        ("a.csv", 'prompt,class\n"a, b",x\nc,\n', [Prompt("a, b", "x"), Prompt("c", OWN)]),
        ("a.csv", "id,prompt\n1,a\n", [Prompt("a")]),
        ("a.jsonl", '{"prompt": "a", "class": "x"}\n\n"b"\n', [Prompt("a", "x"), Prompt("b")]),
        (
            "question.jsonl",
            json.dumps({"question_id": 81, "category": "writing", "turns": ["a", "b"]}),
            [Prompt("a", "writing")],
        ),
        ("a.json", '["a", {"prompt": "b"}]', [Prompt("a"), Prompt("b")]),
    ],
)
def test_every_kind_of_file_is_read(tmp_path, name, text, prompts):
    assert read_prompts(written(tmp_path, name, text)) == prompts


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.txt", "", "no prompts"),
        ("a.txt", " \n \n", "no prompts"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.docx", "x", r"\.txt, \.csv, \.jsonl or \.json"),
        ("a.csv", "", "column"),
        ("a.csv", "question\nx\n", "column"),
        ("a.csv", 'prompt\n\nx\n" "\n', "line 4 holds no prompt"),
        ("a.csv", "prompt\n" + "x" * 200_000, "longer|CSV"),
        ("a.jsonl", "{", "line 1 is no JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", "7", "line 1 must be a text"),
        ("a.jsonl", '{"turns": []}', "line 1 holds no prompt"),
        ("a.jsonl", '{"turns": [7]}', "line 1 holds no prompt"),
        ("a.jsonl", '{"prompt": null}', "line 1 holds no prompt"),
        ("a.jsonl", '"\\ud800"', "not valid Unicode"),
        ("a.json", "{}", "array"),
        ("a.json", "[" + ",".join(['"x"'] * 10_001) + "]", "more than 10,000"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path, name, text, complaint):
    with pytest.raises(SettingsError, match=complaint) as refused:
        read_prompts(written(tmp_path, name, text))
    assert "\n" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path):
    for place in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(SettingsError):
            read_prompts(place)
    with pytest.raises(SettingsError, match="no class of prompts 'poetry'"):
        built_in(["poetry"], 2)
