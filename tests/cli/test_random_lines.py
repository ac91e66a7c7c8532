"""Whatever is typed: status 0, 1 or 2, at most one line of error, no traceback."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec.cli.main import main
from specdec.saved.trace import write_trace
from tests.made_runs import tiny_run
from tests.models.tiny import write_tiny_llama

NUM_LINES = 300
WORDS = [
    "",
    "-",
    "--",
    "the tin",
    "\udcff",
    "~/nosuch/x",
    "/dev/null",
    "a" * 5000,
    "@",
    "@x",
]
VALUES = [
    "0",
    "1",
    "3",
    "-1",
    "99",
    "1e9",
    "nan",
    "inf",
    "x",
    "",
    "3-2-1",
    "auto",
    "0-0",
    "9" * 400,
]
FLAGS = {
    "--target": ["TARGET", "TARGET", "TARGET", *WORDS],
    "--draft": [
        "none",
        "ngram",
        "suffix",
        "layer-skip",
        "ngram+suffix",
        "ngram|",
        "+",
        "auto",
        *WORDS,
    ],
    "--k": VALUES,
    "--tree": VALUES,
    "--policy": ["fixed", "adaptive", "hf", "entropy", *VALUES],
    "--rule": ["token", "block", *VALUES],
    "--temperature": VALUES,
    "--top-k": VALUES,
    "--top-p": VALUES,
    "--max-tokens": ["1", "2", "3", "-1", "x"],
    "--seed": VALUES,
    "--rtt-ms": ["0", "1", "-1", "nan", "inf", "x"],
    "--jitter-ms": ["0", "1", "-1", "nan", "x"],
    "--backend": ["auto", "portable", "x"],
    "--save": ["SAVED", "FOLDER", "/nowhere/x", "/dev/full", ""],
    "--json": [None],
    "--no-baseline": [None],
    "--tolerance": VALUES,
    "--speed": ["0", "8", "9", "nan", "x"],
}
PLACES = ["RUN", "BROKEN", "FOLDER", *WORDS]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where a target, a sound and a broken run, and a folder are."""
    folder = tmp_path_factory.mktemp("lines")
    target = write_tiny_llama(folder / "target")
    run = folder / "run.jsonl"
    write_trace(tiny_run(folder, num_tokens=4), run)
    (folder / "broken.jsonl").write_bytes(run.read_bytes()[:-50])
    named = {"TARGET": target, "RUN": run, "BROKEN": folder / "broken.jsonl", "FOLDER": folder}
    return {name: str(place) for name, place in named.items()} | {"SAVED": str(folder / "saved")}


@st.composite
def lines(draw):
    command = draw(
        st.sampled_from(["generate", "generate", "check", "replay", "diff", "fetch", "x"])
    )
    line = [command]
    if command == "generate":
        line += [draw(st.sampled_from(["hi", *WORDS]))]
    elif command in ("replay", "fetch"):
        line += [draw(st.sampled_from(PLACES))]
    elif command == "diff":
        line += draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3))
    if command in ("generate", "check"):
        line += ["--target", "TARGET", "--max-tokens", "3"]
    if command == "replay":
        line += ["--speed", "0"]
    for flag in draw(st.lists(st.sampled_from(sorted(FLAGS)), max_size=3, unique=True)):
        value = draw(st.sampled_from(FLAGS[flag]))
        line += [flag] if value is None else [flag, value]
    return line


@settings(max_examples=NUM_LINES, suppress_health_check=list(HealthCheck))
@given(line=lines())
def test_any_line_ends_in_a_status_and_at_most_one_line_of_error(places, line):
    arguments = [places.get(word, word) for word in line]
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            status = main(arguments)
        except SystemExit as leaving:
            status = leaving.code
    complaint = errors.getvalue()
    assert status in (0, 1, 2), complaint
    assert "Traceback" not in complaint
    assert "inside SpeculatoViz" not in complaint, complaint
    assert complaint.count("\n") <= 1, complaint
    assert bool(complaint) or status == 0 or line[0] == "diff"
