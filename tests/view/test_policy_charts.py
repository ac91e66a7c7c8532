"""The chart of a policy: what it is given to draw."""

from __future__ import annotations

from dataclasses import replace

from specdec.runs.moves import moves
from specdec.view.policy_charts import K_LINE, MOVES, NODES, policy_data, policy_spec
from tests.made_runs import tiny_run


def test_each_round_has_its_k_and_what_was_drafted_and_each_move_its_reason(tmp_path):
    rounds = [
        replace(r, policy="hf", num_draft_tokens=3 + r.round % 2, reason="x" * (r.round == 1))
        for r in tiny_run(tmp_path, k=3).rounds[:3]
    ]
    data = policy_data(rounds, moves(rounds))
    by_kind = {kind: rows.to_dict("records") for kind, rows in data.groupby("kind")}
    assert [(row["round"], row["tokens"]) for row in by_kind[K_LINE]] == [(1, 3), (2, 4), (3, 3)]
    assert [row["nodes"] for row in by_kind[NODES]] == [r.num_drafted for r in rounds]
    assert [(row["left"], row["right"]) for row in by_kind[NODES]][:1] == [(0.6, 1.4)]
    told = [(row["round"], row["tokens"], row["why"]) for row in by_kind[MOVES]]
    assert told[0] == (2, 4, "x")
    assert told[1][:2] == (3, 3)
    assert told[1][2].startswith("K 4 → 3")


def test_the_chart_draws_every_kind_and_carries_no_data():
    spec = policy_spec()
    assert "data" not in spec
    assert "datasets" not in spec
    filters = [step["filter"] for layer in spec["layer"] for step in layer["transform"]]
    assert filters == [f"datum.kind == '{kind}'" for kind in (NODES, K_LINE, MOVES)]
