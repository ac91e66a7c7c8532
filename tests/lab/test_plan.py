"""A plan is checked before anything is measured, and says which value is wrong."""

from __future__ import annotations

import pytest

from specdec.errors import SettingsError
from specdec.lab.plan import PLAIN_ARM, Arm
from specdec.lab.plan_file import parse_plan, read_plan, write_plan

WHOLE = """
name = "ours"
target = "smollm2-135m"
backend = "portable"
drafts = ["ngram", "layer-skip"]
k = [1, 3]
temperatures = [0, 0.7]
rtt_ms = [0, 50]
seeds = [0, 1]
max_tokens = 32
budget_minutes = 5
stops_early = false

[prompts]
classes = ["code", "prose"]
per_class = 3
file = "own.txt"

[[strategies]]
draft = "smollm2-draft"
tree = "3-2-1"
policy = "adaptive"
k = 3
"""


def test_a_whole_plan_is_understood(tmp_path):
    (tmp_path / "own.txt").write_text("Mine.\n\nMine too.")
    (tmp_path / "plan.toml").write_text(WHOLE)
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.arms == (
        PLAIN_ARM,
        *(Arm(draft, k) for draft in ("ngram", "layer-skip") for k in (1, 3)),
        Arm("smollm2-draft", 3, "3-2-1", "adaptive"),
    )
    assert len(plan.prompts) == 8
    assert plan.num_cells == len(plan.cells) == len({cell.key for cell in plan.cells})
    assert plan.num_cells == 8 * 6 * 2 * 2 * 2
    config = plan.config(plan.cells[5])
    assert (config.tree, config.policy, config.max_tokens) == ("3-2-1", "adaptive", 32)


def test_an_empty_plan_compares_the_usual_drafts(tmp_path):
    plan = parse_plan("", beside=tmp_path)
    assert {arm.draft for arm in plan.arms} == {"none", "smollm2-eagle", "smollm2-draft", "ngram"}
    assert {prompt.kind for prompt in plan.prompts} == {"code", "prose"}


def test_the_digest_is_of_what_is_measured(tmp_path):
    one = parse_plan("k = [1]\nname = 'a'\nbudget_minutes = 1", beside=tmp_path)
    assert one.digest == parse_plan("k = 1\nname = 'b'", beside=tmp_path).digest
    assert one.digest != parse_plan("k = 2", beside=tmp_path).digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("k =", "no TOML"),
        ("a = " + "[" * 5000, "no TOML"),
        ("kk = 1", "no 'kk' in the plan"),
        ("[prompts]\nclas = 1", r"no 'clas' in \[prompts\]"),
        ("[[strategies]]\ndraft = 'ngram'\nshape = 1", r"no 'shape' in \[\[strategies\]\]"),
        ("[[strategies]]\nk = 1", "draft is missing"),
        ("strategies = 1", r"strategies must be tables"),
        ("prompts = 1", r"prompts must be a table"),
        ("k = []", "k must be a number"),
        ("k = [1, 1]", "k must be a number"),
        ("k = [1.5]", "k must be a number"),
        ("k = [true]", "k must be a number"),
        ("k = ['a']", "k must be a number"),
        ("k = [17]", "between 0 and 16"),
        ("k = [99999999999999999999999]", "k must be a number"),
        ("temperatures = [nan]", "temperatures must be"),
        ("temperatures = [3]", "temperature must be 0"),
        ("temperatures = [-1]", "temperature must be 0"),
        ("rtt_ms = [-1]", "round trip"),
        ("rtt_ms = [inf]", "rtt_ms must be"),
        ("seeds = [-1]", "seed"),
        ("max_tokens = 0", "token limit"),
        ("max_tokens = '9'", "max_tokens must be a whole number"),
        ("budget_minutes = 0", "budget_minutes must be more than 0"),
        ("budget_minutes = nan", "budget_minutes must be a number"),
        ("stops_early = 1", "stops_early must be true or false"),
        ("target = 7", "target must be a text"),
        ("backend = 'abacus'", "no backend 'abacus'"),
        ("drafts = [7]", "drafts must be a list of different texts"),
        ("drafts = ['a', 'a']", "drafts must be a list of different texts"),
        ("[[strategies]]\ndraft = 'ngram'\npolicy = 'whim'", "whim"),
        ("[[strategies]]\ndraft = 'ngram'\nrule = 'whim'", "whim"),
        ("drafts = ['ngram-saved']", "take ngram"),
        ("drafts = ['suffix|ngram-saved']", "take ngram"),
        ("[prompts]\nclasses = ['poetry']", "no class of prompts 'poetry'"),
        ("[prompts]\nclasses = []", "no prompts"),
        ("[prompts]\nper_class = 0", "per_class must be 1 or more"),
        ("[prompts]\nfile = 'none.txt'", "cannot be read"),
        ("seeds = " + str(list(range(9000))), "too many"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, complaint):
    with pytest.raises(SettingsError, match=complaint) as refused:
        parse_plan(text, beside=tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe")
    for place in ("plan.toml", "none.toml", "."):
        with pytest.raises(SettingsError):
            read_plan(tmp_path / place)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "name = 'a \"quoted\" name \\u007f'\npredict = true\nstops_early = false",
        "[[strategies]]\ndraft = 'smollm2-draft'\ntree = '3-2-1'\npolicy = 'adaptive'\nk = 3",
        "drafts = ['ngram']\nk = [2]\n[[strategies]]\ndraft = 'ngram'\nk = [3]",
        "drafts = []\n[[strategies]]\ndraft = 'ngram'\nk = 5\nrule = 'block'",
        "budget_minutes = 1.5\nrtt_ms = [0, 0.5]\n[prompts]\nclasses = ['list']\nper_class = 5",
        "[[prompts.given]]\nprompt = '''two\nlines \\ \"'''\nclass = 'ünïcode 🙂'",
        "[prompts]\nclasses = ['code']\nfile = 'own.txt'\n[[prompts.given]]\nprompt = 'x'",
    ],
)
def test_a_plan_that_is_written_is_the_plan_that_is_read(more):
    plan = parse_plan(more, uploaded={"own.txt": b"Mine.\n\nMine too."})
    written = write_plan(plan)
    again = parse_plan(written)
    assert again == plan
    assert again.digest == plan.digest
    assert "own.txt" not in written


@pytest.mark.parametrize("name", ["own.txt", "/etc/hostname", "../own.txt"])
def test_a_page_reads_no_file_of_the_machine(name):
    with pytest.raises(SettingsError, match="upload it"):
        parse_plan(f"[prompts]\nfile = '{name}'", uploaded={"other.txt": b"x"})
