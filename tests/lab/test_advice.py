"""What is recommended is what was measured, and what is to be pasted is what servers take."""

from __future__ import annotations

import json
import re
import shlex
from argparse import ArgumentParser
from dataclasses import replace

import pytest

from specdec.lab.advice import advise, conditions_to_advise, pooled_outlook, sentences
from specdec.lab.configurations import configurations
from specdec.lab.plan import PLAIN_ARM, Arm, Cell
from specdec.lab.plan_file import parse_plan
from specdec.lab.results import Condition, Measured, Results
from specdec.metrics import Totals
from tests.made_runs import record, tiny_events

PLAN = """
drafts = ["some/draft", "ngram"]
k = [1, 4]
temperatures = [1.0]
rtt_ms = [0, 100]
[prompts]
classes = ["code", "prose"]
per_class = 4
"""


@pytest.fixture
def plan():
    return parse_plan(PLAN)


def measured(folder, plan, *, draft_s):
    """Return all cells as a machine with these costs would have run them."""
    events = {}

    def measure(cell: Cell) -> Measured:
        k, seed = cell.arm.num_draft_tokens, len(cell.prompt.text)
        if (seed, k) not in events:
            events[seed, k] = tiny_events(folder, seed=seed, num_tokens=200, k=k)
        run = record(*events[seed, k]).run()
        link_s = cell.rtt_ms / 1e3
        price_s = draft_s + (0.001 if cell.arm.draft == "ngram" else 0.0)
        rounds = tuple(
            replace(
                one,
                draft_s=price_s * one.num_drafted,
                verify_s=0.04 + link_s,
                link_s=link_s,
                sample_s=0.0,
                wall_s=0.04 + price_s * one.num_drafted + link_s,
            )
            for one in run.rounds
        )
        whole = replace(run, rounds=rounds, summary=Totals(rounds).summary())
        return Measured.of_run(cell.key, whole)

    return Results(plan.arms, map(measure, plan.cells))


def test_the_fastest_arm_is_recommended_with_its_limits(tmp_path, plan):
    results = measured(tmp_path, plan, draft_s=0.01)
    advice = advise(results, Condition(1.0, 0.0))
    assert advice.best.is_best
    assert advice.best.arm.draft == "some/draft"
    assert advice.rival is None
    said = " ".join(sentences(advice))
    assert f"with K = {advice.best.arm.num_draft_tokens}: " in said
    assert re.search(r"\d\.\d\d times plain decoding \(95 % from \d\.\d\d to \d\.\d\d, 8 ", said)
    assert "over any link" in said
    assert 0 < advice.least_acceptance < advice.first_acceptance
    kinds = [one.kind for one in conditions_to_advise(plan, 1.0, 0.0)]
    assert kinds == ["", "code", "prose"]


def test_a_draft_that_does_not_pay_here_pays_from_a_round_trip_on(tmp_path, plan):
    results = measured(tmp_path, plan, draft_s=0.06)
    advice = advise(results, Condition(1.0, 0.0))
    assert advice.best.arm == PLAIN_ARM
    assert "Plain decoding: no draft is faster" in sentences(advice)[0]
    (edge,) = re.findall(r"From (\d+) ms round trip on it would pay", " ".join(sentences(advice)))
    assert 0 < int(edge) < 100
    far = advise(results, Condition(1.0, 100.0))
    assert not far.best.arm.is_plain
    (below,) = re.findall(r"Below (\d+) ms round trip", " ".join(sentences(far)))
    assert 0 < int(below) < 100


def test_the_edge_is_where_both_are_as_fast(tmp_path, plan):
    results = measured(tmp_path, plan, draft_s=0.06)
    found = pooled_outlook(results, Condition(1.0, 0.0), Arm("some/draft", 4))
    edge_s = found.break_even_link_s(4)
    assert found.tokens_per_s(4, edge_s) == pytest.approx(found.tokens_per_s(0, edge_s))


def test_too_little_is_no_advice(plan):
    assert advise(Results(plan.arms, ()), Condition(1.0, 0.0)) is None


# -- to paste ------------------------------------------------------------------------------------


def pasted(plan, arm):
    return {one.server: one for one in configurations(plan, arm)}


def test_a_draft_model_as_each_server_says_it(plan):
    made = pasted(plan, Arm("org/draft", 3))
    words = shlex.split(made["vLLM"].text)
    config = json.loads(words[words.index("--speculative-config") + 1])
    assert config == {
        "method": "draft_model",
        "model": "org/draft",
        "num_speculative_tokens": 3,
    }
    assert "num_speculative_tokens_per_batch_size is left out" in made["vLLM"].note
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in made["vLLM"].text
    assert "--speculative-num-draft-tokens 4" in made["SGLang"].text
    llama = made["llama.cpp"].text
    assert "--draft-max 3" in llama
    assert "--draft-min 0" in llama
    assert "--draft-p-min 0" in llama
    assert "--num-draft-tokens 3" in made["mlx-lm"].text
    assert '"speculativeDecodingNumDraftTokensExact": 3' in made["LM Studio"].text
    assert "num_assistant_tokens = 3" in made["Hugging Face generate"].text
    assert "SPECULATION_K=3" in made["SpeculatoViz"].text


def test_prompt_lookup_where_there_is_any(plan):
    made = pasted(plan, Arm("ngram", 5))
    words = shlex.split(made["vLLM"].text)
    assert json.loads(words[-1]) == {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 1,
    }
    assert "--spec-type ngram-simple" in made["llama.cpp"].text
    assert "prompt_lookup_num_tokens=5" in made["Hugging Face generate"].text
    assert not made["mlx-lm"].text
    assert "no prompt lookup" in made["mlx-lm"].note


@pytest.mark.parametrize(
    ("arm", "why"),
    [
        (PLAIN_ARM, "leave speculation out"),
        (Arm("smollm2-draft", 3), "part of the vocabulary"),
        (Arm("layer-skip", 3), "no such way"),
        (Arm("org/draft", 3, tree="3-2-1"), "no such way"),
        (Arm("org/draft+ngram", 3), "no such way"),
    ],
    ids=["plain", "shipped", "layer-skip", "tree", "mixture"],
)
def test_what_no_other_server_has_is_said_and_not_made_up(plan, arm, why):
    made = pasted(plan, arm)
    own = made.pop("SpeculatoViz")
    assert f"DRAFT_MODEL={own_name(arm)}" in own.text
    for one in made.values():
        assert not one.text
        assert why in one.note


def own_name(arm):
    return arm.draft if "+" not in arm.draft else f"'{arm.draft}'"


def test_our_own_lines_come_back_as_settings(plan, tmp_path, monkeypatch):
    from specdec.settings import Settings

    arm = Arm("org/it's a draft", 2, tree="3-2", policy="adaptive", rule="block")
    (tmp_path / ".env").write_text(pasted(plan, arm)["SpeculatoViz"].text)
    monkeypatch.chdir(tmp_path)
    for name in ("TARGET_MODEL", "DRAFT_MODEL", "SPECULATION_K"):
        monkeypatch.delenv(name, raising=False)
    run = Settings.from_environment().run
    found = Arm(run.draft, run.num_draft_tokens, run.tree, run.policy, run.rule)
    assert found == arm


def test_the_names_are_those_of_the_installed_libraries(plan):
    transformers = pytest.importorskip("transformers")
    known = transformers.GenerationConfig().to_dict()
    made = pasted(plan, Arm("org/draft", 3))["Hugging Face generate"].text
    made += pasted(plan, Arm("ngram", 3))["Hugging Face generate"].text
    names = re.findall(r"generation_config\.(\w+)|(?:\(\*\*inputs, |, )(\w+)=", made)
    found = {one or other for one, other in names} - {"assistant_model"}
    assert len(found) == 5
    assert found <= set(known) | set(vars(transformers.GenerationConfig()))


def test_mlx_lm_takes_the_line(plan, monkeypatch):
    server = pytest.importorskip("mlx_lm.server")
    words = shlex.split(pasted(plan, Arm("org/draft", 3))["mlx-lm"].text.replace("\\\n", " "))
    parsed = {}

    def stop(parser, *arguments, **options):
        parsed.update(vars(ArgumentParser.parse_known_args(parser, words[4:])[0]))
        raise SystemExit

    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    with pytest.raises(SystemExit):
        server.main()
    assert parsed["num_draft_tokens"] == 3
    assert parsed["draft_model"] == "org/draft"
