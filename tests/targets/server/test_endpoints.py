"""Endpoints and keys from the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from specdec.errors import SettingsError
from specdec.targets.server.endpoints import Endpoint, endpoints_from_environment, find_endpoint

LAB = {
    "ENDPOINT_LAB_2_URL": "http://10.0.0.7:8000/v1/",
    "ENDPOINT_LAB_2_MODEL": "Qwen/Qwen2.5-7B-Instruct",
}


def test_cerebras_is_always_there_with_the_variables_of_the_seed():
    endpoint = endpoints_from_environment({})["cerebras"]
    assert (endpoint.root, endpoint.model) == ("https://api.cerebras.ai", "gpt-oss-120b")
    assert endpoint.key_variable == "CEREBRAS_API_KEY"
    chosen = endpoints_from_environment({"CEREBRAS_TARGET_MODEL": "zai-glm-4.7"})["cerebras"]
    assert chosen.model == "zai-glm-4.7"


def test_any_number_of_endpoints_may_be_named():
    more = {f"ENDPOINT_{name}_URL": "http://h:1" for name in "AB"}
    more |= {f"ENDPOINT_{name}_MODEL": "m" for name in "AB"}
    assert set(endpoints_from_environment(LAB | more)) == {"cerebras", "lab-2", "a", "b"}


def test_every_field_may_be_set():
    endpoint = endpoints_from_environment(
        LAB
        | {
            "ENDPOINT_LAB_2_SERVER": "VLLM",
            "ENDPOINT_LAB_2_PROTOCOL": "prefixes",
            "ENDPOINT_LAB_2_KEY_VARIABLE": "LAB_KEY",
            "ENDPOINT_LAB_2_TOKENIZER": "Qwen/Qwen2.5-7B-Instruct",
            "ENDPOINT_LAB_2_TOP_LOGPROBS": "-1",
            "ENDPOINT_LAB_2_CONTEXT_LENGTH": "32768",
            "ENDPOINT_LAB_2_TIMEOUT_S": "7.5",
        }
    )["lab-2"]
    assert endpoint == Endpoint(
        name="lab-2",
        url="http://10.0.0.7:8000/v1/",
        model="Qwen/Qwen2.5-7B-Instruct",
        server="vllm",
        protocol="prefixes",
        key_variable="LAB_KEY",
        tokenizer="Qwen/Qwen2.5-7B-Instruct",
        top_logprobs=-1,
        context_length=32768,
        read_timeout_s=7.5,
    )


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("https://h/inference/v1", "https://h/inference"),
        ("https://h/v10", "https://h/v10"),
    ],
)
def test_the_v1_of_a_url_is_understood(url, root):
    assert Endpoint("lab", url, "m").root == root


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ENDPOINT_LAB_2_URL": "localhost:8000"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "ftp://h"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://h:99999"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://h:port"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://[::1"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://a b"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://.h"}, "must look like http://host:port"),
        ({"ENDPOINT_LAB_2_URL": "http://user:sesame@h"}, "nothing but host, port and path"),
        ({"ENDPOINT_LAB_2_URL": "http://h/?key=sesame"}, "nothing but host, port and path"),
        ({"ENDPOINT_LAB_2_MODEL": ""}, "set ENDPOINT_LAB_2_MODEL"),
        ({"ENDPOINT_LAB_2_SERVER": "triton"}, "must be one of auto, cerebras, vllm"),
        ({"ENDPOINT_LAB_2_PROTOCOL": "guess"}, "must be one of auto, score, prefixes, continue"),
        ({"ENDPOINT_LAB_2_TOP_LOGPROBS": "0"}, "must be 1 or more, or −1"),
        ({"ENDPOINT_LAB_2_TOP_LOGPROBS": "many"}, "TOP_LOGPROBS must be a whole number"),
        ({"ENDPOINT_LAB_2_TOP_LOGPROBS": "nan"}, "TOP_LOGPROBS must be a whole number"),
        ({"ENDPOINT_LAB_2_CONTEXT_LENGTH": "inf"}, "CONTEXT_LENGTH must be a whole number"),
        ({"ENDPOINT_LAB_2_CONTEXT_LENGTH": "-5"}, "context length .* must be 1 or more"),
        ({"ENDPOINT_LAB_2_TIMEOUT_S": "soon"}, "TIMEOUT_S must be a number"),
        ({"ENDPOINT_LAB_2_TIMEOUT_S": "0"}, "time limit"),
        ({"ENDPOINT_LAB_2_TIMEOUT_S": "nan"}, "time limit"),
        ({"ENDPOINT_LAB_2_TIMEOUT_S": "inf"}, "time limit"),
    ],
)
def test_what_cannot_be_used_is_named(changes, words):
    with pytest.raises(SettingsError, match=words) as caught:
        endpoints_from_environment(LAB | changes)
    assert "sesame" not in str(caught.value)


def test_a_target_with_the_mark_is_an_endpoint_and_no_other_is():
    assert find_endpoint("@LAB-2", LAB) == endpoints_from_environment(LAB)["lab-2"]
    assert find_endpoint("smollm2-135m", LAB) is None
    with pytest.raises(SettingsError, match="no endpoint @lab; there are @cerebras, @lab-2"):
        find_endpoint("@lab", LAB)


def test_the_file_env_is_read_and_the_process_environment_wins(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("CEREBRAS_API_KEY=from-file\nCEREBRAS_TARGET_MODEL=one\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEREBRAS_TARGET_MODEL", "two")
    endpoint = endpoints_from_environment()["cerebras"]
    assert (endpoint.model, endpoint.key()) == ("two", "from-file")


def test_a_missing_key_says_which_variable_to_set():
    endpoint = endpoints_from_environment({})["cerebras"]
    with pytest.raises(SettingsError, match=r"set CEREBRAS_API_KEY in \.env"):
        endpoint.key({})


def test_a_key_is_read_when_it_is_needed_and_trimmed():
    endpoint = endpoints_from_environment({})["cerebras"]
    assert endpoint.key({"CEREBRAS_API_KEY": " csk-1 \n"}) == "csk-1"
    assert Endpoint("lab", "http://h", "m").key({}) is None


@pytest.mark.parametrize("key", ["two words", "csk-1\ncsk-2", "schlüssel"])
def test_an_impossible_key_is_refused_without_being_shown(key):
    endpoint = endpoints_from_environment({})["cerebras"]
    with pytest.raises(SettingsError, match="CEREBRAS_API_KEY does not hold a usable key") as error:
        endpoint.key({"CEREBRAS_API_KEY": key})
    assert key not in str(error.value)


def test_every_line_of_the_example_is_one_that_works():
    text = (Path(__file__).parents[3] / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#?([A-Z_0-9]+)=(.*)$", text, re.MULTILINE))
    endpoints = endpoints_from_environment(found)
    assert {name: e.server for name, e in endpoints.items()} == {
        "cerebras": "cerebras",
        "lab": "vllm",
        "sglang": "sglang",
        "llama": "llama-server",
        "mlx": "mlx",
    }
    assert find_endpoint(found["TARGET_MODEL"], found) == endpoints["cerebras"]
    assert found["LAB_API_KEY"] == found["CEREBRAS_API_KEY"] == ""
    assert re.findall(r"^([A-Z_]+)=", text, re.MULTILINE) == ["CEREBRAS_API_KEY"]
