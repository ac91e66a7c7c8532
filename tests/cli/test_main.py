"""The command line on a tiny real model: documents, text, and one clear line for bad input."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pytest

from specdec.block import RULES
from specdec.cli import generate as cli
from specdec.cli.main import main
from specdec.cli.text import print_pieces, printable
from specdec.observe import final_record
from specdec.policies.named import POLICIES
from specdec.saved.store import RunStore
from specdec.saved.trace import read_trace
from tests.models.tiny import write_tiny_llama
from tests.saved.test_files import largest_file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("tiny")))


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["generate", "the tin", "--json", "--backend", "portable", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("draft", ["none", "ngram", "layer-skip"])
def test_json_is_one_document_with_vllms_names(
    draft: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got = document(
        capsys, "--target", model, "--draft", draft, "--max-tokens", "20", "--rtt-ms", "2"
    )
    assert {"text", "token_ids", "config", "summary", "exactness"} <= got.keys()
    summary = got["summary"]
    assert summary["num_tokens"] == len(got["token_ids"]) <= 20
    assert {
        "mean_acceptance_length",
        "draft_acceptance_rate",
        "num_spec_steps",
        "num_draft_tokens",
        "num_accepted_draft_tokens",
        "num_target_calls",
        "tokens_per_s",
        "ttft_s",
        "finish_reason",
    } <= summary.keys()
    parts = summary["prefill_s"] + summary["draft_s"] + summary["verify_s"] + summary["sample_s"]
    assert parts <= summary["wall_s"] <= 1.2 * parts + 0.05
    assert 0.002 * summary["num_target_calls"] <= summary["link_s"] <= summary["verify_s"]
    assert got["link_is_emulated"] is True
    assert got["baseline"]["tokens_per_s"] < got["baseline"]["tokens_per_s_without_link"]


def test_an_answer_that_was_saved_is_drafted_again(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPECDEC_DB", f"sqlite:///{tmp_path / 'runs.db'}")
    options = ("--target", model, "--temperature", "0", "--max-tokens", "31", "--no-baseline")
    plain = document(capsys, *options, "--k", "0", "--save", str(tmp_path / "plain.json"))
    with closing(RunStore()) as store:
        store.save(read_trace(tmp_path / "plain.json"))
    again = document(capsys, *options, "--draft", "ngram-saved", "--k", "4")
    assert again["token_ids"] == plain["token_ids"]
    assert again["summary"]["draft_acceptance_rate"] == 1.0


@pytest.mark.parametrize(
    "names",
    [
        ["--target", ""],
        ["--target", "  "],
        ["--draft", ""],
        ["--draft", "ngram+"],
        ["--draft", "|"],
    ],
    ids=" ".join,
)
def test_a_name_that_is_missing_is_said(
    names: list[str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "Hi", "--target", model, *names]) == 2
    assert "The name of a model is missing; choose" in capsys.readouterr().err


def test_greedy_ids_are_the_same_for_every_draft(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ids(*arguments: str) -> list[int]:
        options = ("--target", model, "--temperature", "0", "--max-tokens", "30", "--no-baseline")
        return document(capsys, *options, *arguments)["token_ids"]

    plain = ids("--k", "0")
    assert len(plain) > 5
    for draft in ("none", "ngram", "suffix", "lookahead", "layer-skip", model):
        assert ids("--draft", draft, "--k", "5") == plain
    for draft in (
        "layer-skip+ngram",
        "layer-skip|suffix",
        "lookahead|suffix",
        f"ngram|layer-skip+{model}",
    ):
        assert ids("--draft", draft, "--k", "4") == plain
    for tree in ("3-2-1", "auto", "best"):
        assert ids("--draft", "layer-skip", "--tree", tree, "--k", "4") == plain
    for policy in POLICIES:
        assert ids("--draft", "layer-skip", "--policy", policy, "--k", "4") == plain
    for rule in RULES:
        assert ids("--draft", "layer-skip", "--rule", rule, "--k", "4") == plain


def test_the_text_and_the_totals_are_printed(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", model, "--max-tokens", "12", "--backend", "portable"]
    assert main(["generate", "the tin", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "tokens per target call" in printed
    assert "one call per token over the same link" in printed


def test_the_prompt_may_come_from_standard_input(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the tin"))
    assert main(["generate", "-", "--target", model, "--json", "--no-baseline"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--k", "99"], "between 0 and 16, not 99"),
        (["generate", "x", "--temperature", "-1"], "temperature must be 0"),
        (["generate", " "], "prompt is empty"),
        (["generate", "x", "--target", "nosuch"], "no model 'nosuch'"),
        (["generate", "x", "--target", "MODEL", "--draft", "nosuch"], "no model 'nosuch'"),
        (["generate", "word " * 3000, "--target", "MODEL"], "tokens long"),
        (["generate", "x", "--k", "four"], "invalid int value"),
        (["generate", "x", "--backend", "cuda"], "invalid choice"),
        (["generate", "x", "--top-p", "0"], "top-p must lie above 0"),
        (["generate", "x", "--top-k", "-1"], "top-k must be 0"),
        (["generate", "x", "--max-tokens", "0"], "limit must lie between 1"),
        (["generate", "x", "--rtt-ms", "-5"], "round trip"),
        (["generate", "x", "--seed", "-1"], "seed must lie"),
        (["generate", "x", "--target", "MODEL", "--save", "/nowhere/run"], "no folder /nowhere"),
        (["generate", "x", "--target", "MODEL", "--save", "/dev/null"], "/dev/null is no file"),
        (["generate", "x", "--target", "MODEL", "--save", "/proc/run"], "cannot be written"),
        (["generate", "x", "--target", "nosuch", "--json"], "no model 'nosuch'"),
        (["replay", "/nowhere"], "cannot be read"),
        (["fetch", "nosuch"], "no model 'nosuch'"),
        (["dance"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_gets_one_clear_line_and_status_2(
    arguments: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [model if argument == "MODEL" else argument for argument in arguments]
    try:
        status = main(arguments)
    except SystemExit as exit_request:
        status = exit_request.code
    printed = capsys.readouterr()
    assert status == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_interruption_keeps_what_was_written(
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    texts: list[str] = []

    def interrupt_the_third_round(result, pieces, screen) -> None:
        print_pieces(result, pieces, screen)
        texts.append(printable("".join(pieces)))
        if len(texts) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "print_pieces", interrupt_the_third_round)
    saved = tmp_path / "run"
    arguments = ["--target", model, "--backend", "portable", "--save", str(saved)]
    assert main(["generate", "the tin", *arguments]) == 130
    printed = capsys.readouterr()
    assert printed.out.startswith("".join(texts))
    assert "Finished: stopped." in printed.out
    assert printed.err == "Interrupted.\n"
    run = read_trace(saved)
    assert (len(run.rounds), run.summary.finish_reason) == (3, "stopped")


@pytest.mark.parametrize("failure", [RuntimeError("Oh."), MemoryError(), ZeroDivisionError("a\nb")])
def test_any_error_keeps_what_was_written(
    failure: Exception,
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    left = iter([True] * 3)

    def fail_in_the_fourth_round(*arguments):
        if not next(left, False):
            raise failure
        return final_record(*arguments)

    monkeypatch.setattr("specdec.engine.final_record", fail_in_the_fourth_round)
    saved = tmp_path / "run"
    arguments = ["--target", model, "--no-baseline", "--save", str(saved)]
    assert main(["generate", "the tin", *arguments]) == 1
    printed = capsys.readouterr()
    assert "Finished: error." in printed.out
    assert printed.err.count("\n") == 1
    assert type(failure).__name__ in printed.err
    assert len(read_trace(saved).rounds) == 3
    monkeypatch.setenv("SPECDEC_TRACEBACK", "1")
    with pytest.raises(type(failure)):
        main(["generate", "the tin", *arguments])


def test_a_disk_that_is_full_in_the_end_loses_no_word(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "run"
    arguments = ["--target", model, "--max-tokens", "4", "--save", str(saved)]
    assert main(["generate", "the tin", "--no-baseline", *arguments]) == 0
    shown, kept = capsys.readouterr().out, saved.read_bytes()
    with largest_file(len(kept) // 2):
        assert main(["generate", "the tin", "--no-baseline", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out.split("\n")[0] == shown.split("\n")[0]
    assert "Finished" in printed.out
    assert printed.err == f"{saved} cannot be written: File too large.\n"
    assert list(tmp_path.iterdir()) == [saved]
    assert saved.read_bytes() == kept


def test_check_goes_through_every_part(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--target", model, "--backend", "portable"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["ok"] * 6


def test_models_lists_what_can_be_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path))
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "smollm2-135m" in printed
    assert "to be fetched" in printed


def test_fetch_prints_the_folder(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", model]) == 0
    assert capsys.readouterr().out.strip() == model


def test_a_saved_run_plays_back_and_is_repeated_by_the_same_seed(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def save(name: str, seed: str) -> str:
        path = str(tmp_path / name)
        document(capsys, "--target", model, "--seed", seed, "--max-tokens", "20", "--save", path)
        return path

    one, again, other = save("one", "1"), save("again", "1"), save("other", "2")
    assert main(["replay", one, "--speed", "0"]) == 0
    assert "tokens per target call" in capsys.readouterr().out
    assert main(["replay", one, "--speed", "8"]) == 0
    assert main(["diff", one, again]) == 0
    assert "repeats the first" in capsys.readouterr().out
    assert main(["diff", one, other]) == 1
    assert "seed: 1 against 2" in capsys.readouterr().out
    assert main(["diff", one, str(tmp_path / "nowhere")]) == 2
    assert main(["replay", one, "--speed", "99"]) == 2


def test_control_characters_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\n\td") == "a\\u001b[31mb\\u0007\\u202ec\n\td"
    assert printable("👩\u200d💻 é") == "👩\u200d💻 é"
