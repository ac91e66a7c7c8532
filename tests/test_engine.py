"""Laws of the round loop, on toy models."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies

from specdec.acceptance import Draft, Verdict
from specdec.drafters.base import Drafter, DrafterRun
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import SettingsError, TargetError
from specdec.policies.base import Budget
from specdec.records import (
    Drafted,
    Event,
    FinishReason,
    Prefilled,
    RoundResult,
    RoundSetting,
    RunSummary,
    TokenStatus,
)
from specdec.sampling import Distribution, Sampler, sample
from specdec.targets.base import LOGITS_ONLY, Exactness, Scores, Wanted
from specdec.targets.link import EmulatedLink
from specdec.targets.local import LocalTarget
from tests.toy import VOCAB_SIZE, ToyModel

PROMPT = [1, 2, 3, 1, 2]
GREEDY = Sampler(0.0)


class TreeDrafter(Drafter, DrafterRun):
    """Drafts a tree: two sampled siblings at every depth, the second one without replacement."""

    name = "tree"

    def __init__(self, model: ToyModel) -> None:
        self.model = model

    def start(self, prompt: Sequence[int]) -> TreeDrafter:
        return self

    def propose(self, context, budget, sampler, rng, hidden=None):
        ids, parents, drawn_from = [], [], []
        path, parent = list(context), -1
        for _ in range(budget.depth):
            first = Distribution.from_logits(self.model.logits_after(path), sampler)
            token = sample(first.probs, rng)
            second = first.without(token)
            ids.append(token)
            parents.append(parent)
            drawn_from.append(first)
            if second is not None:
                ids.append(sample(second.probs, rng))
                parents.append(parent)
                drawn_from.append(second)
                parent = len(ids) - 2
            else:
                parent = len(ids) - 1
            path.append(token)
        return Draft(tuple(ids), tuple(parents), tuple(drawn_from))

    def close(self) -> None:
        pass


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "none": NoDrafter,
    "ngram": NgramDrafter,
    "same model": lambda: ModelDrafter(ToyModel(0)),
    "noisy model": lambda: ModelDrafter(ToyModel(0, noise=0.5)),
    "other model": lambda: ModelDrafter(ToyModel(9)),
    "tree": lambda: TreeDrafter(ToyModel(0, noise=0.5)),
}


def run(
    drafter: Drafter,
    num_draft_tokens: int = 4,
    sampler: Sampler = GREEDY,
    target: LocalTarget | EmulatedLink | None = None,
    **options,
) -> list[Event]:
    settings = RoundSettings(drafter, num_draft_tokens, sampler)
    options.setdefault("max_tokens", 40)
    return list(generate(PROMPT, target or LocalTarget(ToyModel(0)), settings, **options))


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [t for event in events if isinstance(event, RoundResult) for t in event.emitted]


def plain_greedy(model: ToyModel, num_tokens: int) -> list[int]:
    """Decode without the engine, one argmax after the other."""
    context = list(PROMPT)
    for _ in range(num_tokens):
        context.append(int(model.logits_after(context).argmax()))
    return context[len(PROMPT) :]


@pytest.mark.parametrize("supports_trees", [True, False])
@pytest.mark.parametrize("num_draft_tokens", [0, 1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_temperature_zero_equals_plain_decoding(
    drafter: str, num_draft_tokens: int, supports_trees: bool
) -> None:
    target = LocalTarget(ToyModel(0, supports_trees=supports_trees))
    events = run(DRAFTERS[drafter](), num_draft_tokens, target=target)
    assert tokens_of(events) == plain_greedy(ToyModel(0), 40)


@pytest.mark.parametrize("drafter", ["noisy model", "other model", "ngram", "tree"])
def test_sampled_output_follows_the_law_of_the_target(drafter: str) -> None:
    """Count 3-token outputs of 1,500 runs; a false alarm has probability below 1e-6.

    The statistic is Pearson's chi-square over the 216 outcomes (rare ones pooled); the bound is
    its 1 − 1e-6 quantile by Wilson and Hilferty (1931), and the seeds are fixed.
    """
    num_runs = 1500
    model, sampler = ToyModel(0), Sampler(1.0)
    build = DRAFTERS[drafter]
    counts = Counter(
        tuple(tokens_of(run(build(), 2, sampler, max_tokens=3, seed=seed)))
        for seed in range(num_runs)
    )

    def chance(sequence: tuple[int, ...]) -> float:
        context, product = list(PROMPT), 1.0
        for token_id in sequence:
            row = Distribution.from_logits(model.logits_after(context), sampler)
            product *= float(row.probs[token_id])
            context.append(token_id)
        return product

    observed, expected = [0.0], [0.0]  # the first cell pools what is expected less than 5 times
    for sequence in itertools.product(range(VOCAB_SIZE), repeat=3):
        mean = num_runs * chance(sequence)
        if mean < 5:
            observed[0] += counts[sequence]
            expected[0] += mean
        else:
            observed.append(counts[sequence])
            expected.append(mean)
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    free = len(observed) - 1
    bound = free * (1 - 2 / (9 * free) + 4.75 * (2 / (9 * free)) ** 0.5) ** 3
    assert statistic < bound


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    events = run(DRAFTERS["same model"](), 4, Sampler(1.0), max_tokens=41)
    statuses = {c.status for e in events if isinstance(e, RoundResult) for c in e.candidates}
    assert statuses == {TokenStatus.ACCEPTED}


@given(
    num_draft_tokens=strategies.integers(0, 16),
    max_tokens=strategies.integers(1, 60),
    temperature=strategies.sampled_from([0.0, 0.7, 1.3]),
    drafter=strategies.sampled_from(sorted(DRAFTERS)),
    seed=strategies.integers(0, 1000),
)
def test_counts_and_texts_are_consistent(
    num_draft_tokens: int, max_tokens: int, temperature: float, drafter: str, seed: int
) -> None:
    events = run(
        DRAFTERS[drafter](),
        num_draft_tokens,
        Sampler(temperature),
        max_tokens=max_tokens,
        seed=seed,
    )
    summary = events[-1]
    rounds = [event for event in events if isinstance(event, RoundResult)]
    drafted = {event.round: event for event in events if isinstance(event, Drafted)}
    assert isinstance(events[0], Prefilled)
    assert isinstance(summary, RunSummary)
    assert summary.num_tokens == max_tokens == len(tokens_of(events))
    assert summary.finish_reason is FinishReason.LENGTH
    position = 0
    for index, result in enumerate(rounds):
        assert (result.round, result.position) == (index, position)
        assert [t.token_id for t in result.tokens] == list(result.emitted)
        assert [t.position for t in result.tokens] == list(
            range(position, position + len(result.emitted))
        )
        assert result.final is not None
        assert len(result.emitted) == result.num_accepted + 1
        if result.candidates:
            pending = drafted[index].candidates
            assert {c.status for c in pending} == {TokenStatus.PENDING}
            assert [c.token_id for c in pending] == [c.token_id for c in result.candidates]
        position += len(result.emitted)
    assert summary.num_draft_tokens == sum(r.num_drafted for r in rounds)
    assert summary.num_accepted_draft_tokens == sum(r.num_accepted for r in rounds)
    assert sum(summary.acceptance_histogram) == summary.num_spec_steps
    assert sum(summary.accepted_per_pos) == summary.num_accepted_draft_tokens


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    def tokens(seed: int) -> list[int]:
        return tokens_of(run(DRAFTERS["noisy model"](), 4, Sampler(1.2), seed=seed))

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_an_end_token_ends_the_run_and_nothing_stands_after_it(drafter: str) -> None:
    plain = plain_greedy(ToyModel(0), 40)
    eos = plain[12]
    events = run(DRAFTERS[drafter](), 8, eos_token_ids={eos})
    assert tokens_of(events) == plain[: plain.index(eos) + 1]
    assert events[-1].finish_reason is FinishReason.STOP


def test_the_context_of_the_target_ends_the_run() -> None:
    model = ToyModel(0)
    model.context_length = len(PROMPT) + 7
    events = run(DRAFTERS["same model"](), 4, target=LocalTarget(model))
    assert len(tokens_of(events)) == 7
    assert events[-1].finish_reason is FinishReason.LENGTH


def test_nothing_is_prefilled_twice_and_every_committed_token_is_fed_once() -> None:
    model = ToyModel(0)
    run(NoDrafter(), 0, target=LocalTarget(model), max_tokens=20)
    assert model.prefills == [len(PROMPT) - 1]
    assert model.num_fed == 20


def test_a_fully_accepted_draft_costs_the_drafter_one_token_more_to_feed() -> None:
    """The rule [last_draft, bonus]: the last drafted token was never fed before."""
    draft = ToyModel(0)
    run(ModelDrafter(draft), 4, max_tokens=10)
    assert draft.prefills == [len(PROMPT) - 1]
    assert draft.num_fed == 4 + (2 + 3)


def test_settings_may_change_between_rounds_drafter_included() -> None:
    first = RoundSettings(DRAFTERS["noisy model"](), 2, GREEDY)
    then = RoundSettings(NgramDrafter(), 5, GREEDY)
    asked = iter([first, first, first])
    events = list(
        generate(PROMPT, LocalTarget(ToyModel(0)), lambda: next(asked, then), max_tokens=40)
    )
    assert tokens_of(events) == plain_greedy(ToyModel(0), 40)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert [(r.drafter, r.num_draft_tokens) for r in rounds[:3]] == [
        ("toy-0", 2),
        ("toy-0", 2),
        ("ngram", 5),
    ]


class FailingTarget(LocalTarget):
    """Answers twice, then fails."""

    def start(self, prompt, wanted=LOGITS_ONLY):
        inner, self.closed = super().start(prompt, wanted), False
        outer = self

        class Run:
            calls = 0
            read_hidden = None

            def score(self, context, draft):
                self.calls += 1
                if self.calls > 2:
                    raise TargetError("The server went away; start it again.")
                return inner.score(context, draft)

            def close(self):
                outer.closed = True

        return Run()


def test_a_failing_target_ends_the_run_and_the_tokens_stay() -> None:
    target = FailingTarget(ToyModel(0))
    events = run(NoDrafter(), 0, target=target)
    assert tokens_of(events) == plain_greedy(ToyModel(0), 2)
    assert events[-1].finish_reason is FinishReason.ERROR
    assert events[-1].error == "The server went away; start it again."
    assert target.closed


@pytest.mark.parametrize("leave_after", range(1, 7))
def test_leaving_at_any_yield_closes_everything(leave_after: int) -> None:
    target = FailingTarget(ToyModel(0))
    events = generate(
        PROMPT, target, RoundSettings(DRAFTERS["same model"](), 3, GREEDY), max_tokens=40
    )
    for _ in range(leave_after):
        next(events)
    events.close()
    assert target.closed


def test_a_target_without_a_row_after_the_context_is_an_error_not_a_token() -> None:
    class Silent(LocalTarget):
        def start(self, prompt, wanted=LOGITS_ONLY):
            run = super().start(prompt, wanted)
            run.score = lambda context, draft: Scores([None] * (len(draft) + 1))
            return run

    events = run(NoDrafter(), 0, target=Silent(ToyModel(0)))
    assert tokens_of(events) == []
    assert events[-1].finish_reason is FinishReason.ERROR


def test_missing_rows_cost_the_bonus_and_nothing_else() -> None:
    class Blind(LocalTarget):
        def start(self, prompt, wanted=LOGITS_ONLY):
            inner = super().start(prompt, wanted)
            score = inner.score

            def without_last_row(context, draft):
                rows = list(score(context, draft).logits)
                return Scores([*rows[:-1], None] if len(draft) else rows)

            inner.score = without_last_row
            return inner

    events = run(DRAFTERS["same model"](), 4, target=Blind(ToyModel(0)))
    assert tokens_of(events) == plain_greedy(ToyModel(0), 40)
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert rounds[0].final is None
    assert len(rounds[0].emitted) == 4


def test_the_clock_stands_still_while_the_consumer_works() -> None:
    now = [0.0]

    class Timed(LocalTarget):
        def start(self, prompt, wanted=LOGITS_ONLY):
            inner = super().start(prompt, wanted)
            score = inner.score

            def slow(context, draft):
                now[0] += 2.0
                return Scores(score(context, draft).logits, link_s=0.5, retry_s=0.25)

            inner.score = slow
            return inner

    settings = RoundSettings(DRAFTERS["same model"](), 3, GREEDY)
    events = []
    for event in generate(
        PROMPT, Timed(ToyModel(0)), settings, max_tokens=12, clock=lambda: now[0]
    ):
        events.append(event)
        now[0] += 100.0
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert [r.wall_s for r in rounds] == [2.0, 2.0, 2.0]
    assert [r.verify_s for r in rounds] == [1.75, 1.75, 1.75]
    assert [r.started_s for r in rounds] == [0.0, 2.0, 4.0]
    summary = events[-1]
    assert (summary.wall_s, summary.link_s, summary.retry_s) == (6.0, 1.5, 0.75)
    assert summary.ttft_s == 2.0
    assert summary.tokens_per_s == 2.0


def test_the_emulated_link_is_waited_for_and_changes_no_token() -> None:
    waits: list[float] = []
    link = EmulatedLink(LocalTarget(ToyModel(0)), 0.05, sleep=waits.append)
    events = run(DRAFTERS["noisy model"](), 4, Sampler(0.9), target=link)
    assert tokens_of(events) == tokens_of(run(DRAFTERS["noisy model"](), 4, Sampler(0.9)))
    rounds = [event for event in events if isinstance(event, RoundResult)]
    assert waits == [0.025, 0.025] * len(rounds)
    assert link.link_is_emulated
    assert link.exactness_for(GREEDY) == Exactness()


def test_jitter_varies_the_trips_around_their_mean_and_repeats_with_its_seed() -> None:
    def trips(seed: int) -> list[float]:
        waits: list[float] = []
        link = EmulatedLink(LocalTarget(ToyModel(0)), 0.05, 0.01, seed=seed, sleep=waits.append)
        run(NoDrafter(), 0, target=link)
        return waits

    assert trips(1) == trips(1)
    assert len(set(trips(1))) > 20
    assert np.mean(trips(1)) == pytest.approx(0.025, abs=0.005)


@pytest.mark.parametrize("prompt", [[], [1] * 512])
def test_a_prompt_that_cannot_be_answered_is_refused(prompt: list[int]) -> None:
    settings = RoundSettings(NoDrafter(), 0, GREEDY)
    with pytest.raises(SettingsError, match="prompt"):
        next(generate(prompt, LocalTarget(ToyModel(0)), settings, max_tokens=5))


def test_too_long_a_draft_is_refused() -> None:
    with pytest.raises(SettingsError, match="between 0 and 16, not 17"):
        RoundSettings(NoDrafter(), 17, GREEDY)


def test_no_token_at_all_is_refused() -> None:
    settings = RoundSettings(NoDrafter(), 0, GREEDY)
    with pytest.raises(SettingsError, match="1 or more, not 0"):
        next(generate(PROMPT, LocalTarget(ToyModel(0)), settings, max_tokens=0))


@pytest.mark.parametrize("broken", ["target", "draft"])
def test_a_model_that_gives_no_numbers_ends_the_run_and_keeps_what_was_written(
    broken: str,
) -> None:
    models = {"target": ToyModel(0), "draft": ToyModel(9)}
    plain = plain_greedy(models["target"], 40)
    if broken == "target":
        models["target"].table[plain[3], plain[4]] = np.nan  # what comes after the fifth token
    else:
        models["draft"].table[plain[2], plain[3]] = np.nan  # asked for when there are four
    events = run(ModelDrafter(models["draft"]), 1, target=LocalTarget(models["target"]))
    summary = events[-1]
    assert isinstance(summary, RunSummary)
    assert summary.finish_reason is FinishReason.ERROR
    assert "not numbers" in (summary.error or "")
    assert tokens_of(events) == plain[:4]


# -- what drafters and policies are told ----------------------------------------------------------


class Diary(Drafter, DrafterRun):
    """Drafts what another drafter does, and writes down all that it is told."""

    def __init__(self, inner: Drafter, name: str = "diary", wants: Wanted = LOGITS_ONLY) -> None:
        self._inner, self._name, self._wants = inner, name, wants
        self.starts: list[list[int]] = []
        self.asked: list[tuple[list[int], Budget, np.ndarray | None]] = []
        self.told: list[tuple[Draft, Sequence[Distribution | None], Verdict]] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def wants(self) -> Wanted:
        return self._wants

    def start(self, prompt):
        self.starts.append(list(prompt))
        self._run = self._inner.start(prompt)
        return self

    def propose(self, context, budget, sampler, rng, hidden=None):
        self.asked.append((list(context), budget, None if hidden is None else hidden.copy()))
        return self._run.propose(context, budget, sampler, rng)

    def observe(self, draft, rows, verdict):
        self.told.append((draft, rows, verdict))


def run_in_turns(turns: Sequence[RoundSettings], target=None, **options) -> list[RoundResult]:
    """Run with one of `turns` in each round, the last one from then on."""
    left = list(turns)
    events = generate(
        PROMPT,
        target or LocalTarget(ToyModel(0)),
        lambda: left.pop(0) if len(left) > 1 else left[0],
        **{"max_tokens": 30} | options,
    )
    return [event for event in events if isinstance(event, RoundResult)]


def test_a_drafter_chosen_in_mid_run_gets_the_prompt_and_not_what_was_written_since() -> None:
    late = Diary(ModelDrafter(ToyModel(0, noise=0.3)))
    plain = RoundSettings(NoDrafter(), 0, GREEDY)
    run_in_turns([plain, plain, plain, RoundSettings(late, 3, GREEDY)])
    assert late.starts == [PROMPT]
    assert len(late.asked[0][0]) > len(PROMPT)


def test_drafters_are_kept_by_name_so_that_one_chosen_again_goes_on_where_it_was() -> None:
    one, two, again = (Diary(NgramDrafter(), name) for name in ("a", "b", "a"))
    run_in_turns([RoundSettings(d, 2, GREEDY) for d in (one, one, two, again)])
    assert (one.starts, two.starts, again.starts) == ([PROMPT], [PROMPT], [])
    assert len(one.asked) > 2


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(1.0)])
def test_a_drafter_is_told_what_became_of_each_of_its_drafts(sampler: Sampler) -> None:
    drafter = Diary(TreeDrafter(ToyModel(0, noise=0.5)))
    rounds = run_in_turns([RoundSettings(drafter, 3, sampler)])
    assert len(drafter.told) == len(rounds)
    for (draft, rows, verdict), result in zip(drafter.told, rounds, strict=True):
        assert draft.token_ids == tuple(c.token_id for c in result.candidates)
        assert len(rows) == len(draft) + 1
        accepted = [draft.token_ids[node] for node in verdict.path]
        assert (*accepted, verdict.final_token)[: len(result.emitted)] == result.emitted


@pytest.mark.parametrize("k", [0, 1, 4])
def test_a_budget_never_reaches_past_the_tokens_that_are_wanted(k: int) -> None:
    drafter = Diary(ModelDrafter(ToyModel(0)))
    rounds = run_in_turns([RoundSettings(drafter, k, GREEDY)], max_tokens=7)
    for (context, budget, _), result in zip(drafter.asked, rounds, strict=True):
        left = 7 - (len(context) - len(PROMPT)) - 1
        assert budget.depth == min(k, left)
        assert result.num_draft_tokens == k  # as it was set, wherever the draft was cut


class Growing:
    """One token more in each round, whatever K is set to."""

    name = "growing"

    def start(self):
        return self

    def budget(self, rounds, num_draft_tokens):
        return Budget.chain(len(rounds))


def test_a_policy_decides_k_from_the_rounds_so_far_and_every_round_names_it() -> None:
    settings = RoundSettings(ModelDrafter(ToyModel(0)), 9, GREEDY, Growing())
    rounds = run_in_turns([settings])
    assert [r.num_draft_tokens for r in rounds] == list(range(len(rounds)))
    assert {r.policy for r in rounds} == {"growing"}
    assert len({r.settings for r in rounds}) == 1  # K is the policy's, and not set anew


def test_each_round_names_all_that_could_have_been_set_otherwise() -> None:
    rounds = run_in_turns([RoundSettings(NgramDrafter(), 2, Sampler(0.7, 4, 0.9))])
    assert {r.settings for r in rounds} == {RoundSetting(2, 0.7, "ngram", 4, 0.9, "fixed", "token")}


def test_a_token_tells_which_member_of_the_drafter_proposed_it() -> None:
    class Two(Diary):
        def propose(self, context, budget, sampler, rng, hidden=None):
            draft = super().propose(context, budget, sampler, rng)
            members = tuple("ab"[node % 2] for node in range(len(draft)))
            return replace(draft, drafted_by=members)

    rounds = run_in_turns([RoundSettings(Two(ModelDrafter(ToyModel(0))), 3, GREEDY)])
    said = [[c.drafted_by for c in r.candidates] for r in rounds]
    assert said[0] == ["a", "b", "a"]
    assert all(r.final.drafted_by is None for r in rounds)


@pytest.mark.parametrize(
    ("budget", "depth", "expected"),
    [
        (Budget(4, 4), 2, Budget(2, 2)),  # what is left of a chain is one
        (Budget(4, 4), 9, Budget(4, 4)),
        (Budget(4, 4), -1, Budget(0, 0)),
        (Budget(4, 10), 2, Budget(2, 10)),
        (Budget(4, 10), 0, Budget(0, 0)),
        (Budget(4, 3), 4, Budget(4, 3)),
    ],
)
def test_a_budget_is_cut_to_what_is_still_wanted(
    budget: Budget, depth: int, expected: Budget
) -> None:
    assert budget.cut(depth) == expected
