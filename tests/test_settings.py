"""Settings are checked at construction, and every message names what to change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

import specdec.settings
from specdec.cli.main import main
from specdec.errors import SettingsError
from specdec.models.fetch import hub
from specdec.saved.database import default_location
from specdec.saved.store import RunStore
from specdec.settings import RunConfig, Settings, quiet_threads, variables
from specdec.targets.server.endpoints import endpoints_from_environment
from tests.models.tiny import write_tiny_llama

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_draft_tokens": 99}, "K must lie between 0 and 16, not 99"),
        ({"num_draft_tokens": -1}, "K must lie between 0 and 16"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"max_tokens": 0}, "token limit must lie between 1"),
        ({"seed": -1}, "seed"),
        ({"rtt_ms": -5.0}, "round trip"),
        ({"rtt_ms": float("nan")}, "round trip"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
        ({"top_p": 0.0}, "top-p"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RunConfig(**changes)  # type: ignore[arg-type]


def test_env_sets_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECULATION_K", "7")
    monkeypatch.setenv("TEMPERATURE", "0")
    monkeypatch.setenv("DRAFT_MODEL", "ngram")
    run = Settings.from_environment().run
    assert (run.num_draft_tokens, run.temperature, run.draft) == (7, 0.0, "ngram")


def test_all_of_a_run_can_be_set_there_and_the_example_shows_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example's lines count once their # is taken away, the first of each name."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    chosen: dict[str, str] = {}
    for name, value in re.findall(r"^#([A-Z_]+)=(\S+)$", example, re.MULTILINE):
        chosen.setdefault(name, value)
    names = {name: variable for variable, (name, _) in specdec.settings._VARIABLES.items()}
    assert set(names) == {field.name for field in fields(RunConfig)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{n}={chosen[n]}\n" for n in names.values()))
    run = Settings.from_environment().run
    assert (run.place, run.one_row, run.tree, run.policy) == (
        "torch:cuda",
        False,
        "3-2-1",
        "adaptive",
    )
    assert (run.rtt_ms, run.jitter_ms, run.top_p, run.seed) == (50.0, 5.0, 1.0, 0)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("yes", True), ("TRUE", True), ("off", False), ("0", False)]
)
def test_a_switch_is_read_as_people_write_it(
    text: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECDEC_ONE_ROW", text)
    assert Settings.from_environment().run.one_row is value


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SPECULATION_K", "many", "SPECULATION_K must be a whole number, not 'many'"),
        ("TEMPERATURE", "warm", "TEMPERATURE must be a number"),
        ("SPECULATION_K", "40", r"between 0 and 16, not 40.*\.env"),
        ("SPECDEC_ONE_ROW", "maybe", "SPECDEC_ONE_ROW must be yes or no, not 'maybe'"),
        ("SPECDEC_DEVICE", "gpu", r"no device 'gpu'.*\.env"),
        ("SPECULATION_POLICY", "brave", r"no policy 'brave'.*\.env"),
    ],
)
def test_a_bad_variable_is_named(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment()


# The file .env


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and no variable that would hide what its `.env` says."""
    monkeypatch.chdir(tmp_path)
    for name in ("SPECDEC_DB", "SPECDEC_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def from_file() -> dict[str, str]:
    return {name: value for name, value in variables().items() if name not in os.environ}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"# nothing\n\n", {}, id="only a comment"),
        pytest.param(b"A_1=one\nA_2=two\n", {"A_1": "one", "A_2": "two"}, id="plain"),
        pytest.param(b"A_1=one\r\nA_2=two\r\n", {"A_1": "one", "A_2": "two"}, id="CRLF"),
        pytest.param(b"A_1=one", {"A_1": "one"}, id="no end of line"),
        pytest.param(b"\xef\xbb\xbfA_1=one\nA_2=two\n", {"A_1": "one", "A_2": "two"}, id="BOM"),
        pytest.param(b"\xef\xbb\xbf", {}, id="only a BOM"),
        pytest.param("# für\nA_1=ä\n".encode(), {"A_1": "ä"}, id="not ASCII"),
        pytest.param(b"A_1='a # b'\nA_2=\"c\\nd\"\n", {"A_1": "a # b", "A_2": "c\nd"}, id="quotes"),
        pytest.param(b"A_1='a\r\nb'\nA_2=c", {"A_1": "a\nb", "A_2": "c"}, id="quoted lines"),
        pytest.param(b"A_1 = one  # why\n", {"A_1": "one"}, id="spaces and a comment"),
        pytest.param(b"export A_1=one\n", {"A_1": "one"}, id="export"),
        pytest.param(b"A_1=one\nA_1=two\n", {"A_1": "two"}, id="twice"),
        pytest.param(b"A_1=\nA_2\n", {"A_1": ""}, id="no value"),
    ],
)
def test_what_a_dotenv_file_sets(folder: Path, content: bytes, expected: dict[str, str]) -> None:
    (folder / ".env").write_bytes(content)
    assert from_file() == expected


def test_without_a_dotenv_file_there_is_only_the_environment(folder: Path) -> None:
    assert variables() == dict(os.environ)


def test_the_environment_wins_even_where_it_says_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("SPECULATION_K=5\nMAX_TOKENS=99\nSPECDEC_DB=there.db\n")
    monkeypatch.setenv("MAX_TOKENS", "77")
    monkeypatch.setenv("SPECDEC_DB", "")
    run = Settings.from_environment().run
    assert (run.num_draft_tokens, run.max_tokens) == (5, 77)
    assert default_location().endswith("runs.db")


def test_the_nearest_file_above_counts_and_a_folder_there_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("A_1=one")
    below = folder / "a" / "b"
    (below.parent / ".env").mkdir(parents=True)
    below.mkdir()
    monkeypatch.chdir(below)
    assert from_file() == {"A_1": "one"}


def test_a_working_directory_that_is_gone_has_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert from_file() == {}


def test_an_edit_is_seen_at_the_next_reading(folder: Path) -> None:
    for number in ("1", "2"):
        (folder / ".env").write_text(
            f"SPECULATION_K={number}\nSPECDEC_DB={number}.db\nSPECDEC_CACHE={number}\n"
            f"CEREBRAS_API_KEY=csk-{number}\n"
        )
        assert Settings.from_environment().run.num_draft_tokens == int(number)
        assert default_location() == f"{number}.db"
        assert hub.cache_dir() == Path(number)
        assert endpoints_from_environment()["cerebras"].key() == f"csk-{number}"
    (folder / ".env").unlink()
    assert default_location().endswith("runs.db")


def test_nothing_of_the_file_gets_into_the_process_environment(folder: Path) -> None:
    model = write_tiny_llama(folder / "tiny")
    (folder / ".env").write_text("CEREBRAS_API_KEY=csk-1\nSPECDEC_DB=mine.db\nSPECDEC_CACHE=c\n")
    before = dict(os.environ)
    Settings.from_environment()
    with closing(RunStore()) as store:
        assert store.count() == 0
    assert (folder / "mine.db").is_file()
    assert hub.resolve(str(model)) == model
    assert not hub.is_present("smollm2-135m")
    assert endpoints_from_environment()["cerebras"].key() == "csk-1"
    assert dict(os.environ) == before


def test_only_the_settings_know_of_the_environment() -> None:
    """A child is handed it as it is, which is no setting."""
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "specdec").rglob("*.py")
        if re.search(r"\benviron\b|getenv|putenv|dotenv", path.read_text(encoding="utf-8"))
    ]
    assert sorted(knowing) == ["specdec/models/fetch/download.py", "specdec/settings.py"]


SECRET = "csk-secret"
UNREADABLE = {
    "Latin-1": f"# für später\nCEREBRAS_API_KEY={SECRET}\n".encode("latin-1"),
    "UTF-16": f"CEREBRAS_API_KEY={SECRET}\n".encode("utf-16"),
    "UTF-16, little-endian, without BOM": f"CEREBRAS_API_KEY={SECRET}\n".encode("utf-16-le"),
    "UTF-16, big-endian, without BOM": f"CEREBRAS_API_KEY={SECRET}\n".encode("utf-16-be"),
    "NUL": f"CEREBRAS_API_KEY={SECRET}\0\n".encode(),
    "a folder": None,
    "open quote": f'# a key\n\nCEREBRAS_API_KEY="{SECRET}\nMAX_TOKENS=9\n'.encode(),
    "no assignment": f"\r\n\r\nset CEREBRAS_API_KEY={SECRET}\r\n".encode(),
}
COMPLAINTS = {
    "a folder": r"{file} cannot be read \(Is a directory\): put a readable file there, or none\.",
    "open quote": r"Line 3 of {file} cannot be understood: write NAME=value, .*\.",
    "no assignment": r"Line 3 of {file} cannot be understood: write NAME=value, .*\.",
}
NOT_TEXT = r"{file} is not text in UTF-8: save it in that encoding again\."


def write_unreadable(folder: Path, kind: str) -> str:
    """Write a `.env` of this kind and return the pattern of the whole sentence about it."""
    file, content = folder / ".env", UNREADABLE[kind]
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    return COMPLAINTS.get(kind, NOT_TEXT).replace("{file}", re.escape(str(file)))


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize(
    "read", [variables, Settings.from_environment, default_location, RunStore, hub.cache_dir]
)
def test_a_file_that_cannot_be_read_is_named_and_not_shown(
    folder: Path, kind: str, read: Callable[[], object]
) -> None:
    sentence = write_unreadable(folder, kind)
    with pytest.raises(SettingsError) as caught:
        read()
    assert re.fullmatch(sentence, str(caught.value))
    assert SECRET not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(folder: Path) -> None:
    (folder / ".env").write_text("A_1=one")
    (folder / ".env").chmod(0)
    with pytest.raises(SettingsError, match=r"\.env cannot be read \(Permission denied\)"):
        variables()


@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_command_line_says_so_in_one_line(
    folder: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sentence = write_unreadable(folder, kind)
    assert main(["models"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(sentence + "\n", err)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Latin-1", ["models"]),
        ("UTF-16", ["generate", "the tin"]),
        ("a folder", ["fetch", "tiny"]),
        ("open quote", ["--help"]),
    ],
)
def test_a_process_of_its_own_ends_without_a_traceback(
    folder: Path, kind: str, arguments: list[str]
) -> None:
    sentence = write_unreadable(folder, kind)
    done = subprocess.run(
        [sys.executable, "-m", "specdec", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(sentence + "\n", done.stderr)


# Threads


def test_idle_threads_sleep_unless_the_user_wants_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value, expected in ((None, "passive"), ("active", "active")):
        monkeypatch.setenv("OMP_WAIT_POLICY", value or "")
        if value is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        quiet_threads()
        assert os.environ["OMP_WAIT_POLICY"] == expected


def test_the_kernels_ask_for_it_before_any_thread_is_launched() -> None:
    pytest.importorskip("numba")
    program = (
        "import os, numba.np.ufunc.parallel as threads\n"
        "launch = threads._launch_threads\n"
        "def told():\n"
        "    print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "    launch()\n"
        "threads._launch_threads = told\n"
        "import specdec.models.kernels\n"
        "threads._launch_threads()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == {"passive"}
