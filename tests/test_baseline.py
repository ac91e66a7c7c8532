"""What plain decoding takes, and what wider calls add to it, on targets of known costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specdec.baseline import MIN_BLOCK_CALLS, measure_block, value_of
from specdec.errors import TargetError
from specdec.metrics import Baseline, Block
from specdec.sampling import Sampler
from specdec.targets.base import LOGITS_ONLY, Scores
from specdec.targets.local import LocalTarget
from tests.toy import ToyModel

PROMPT = [1, 2, 3, 1, 2]


class Timed(LocalTarget):
    """Takes as long as it is told for each number of drafted tokens, `link_s` of it on the way."""

    def __init__(self, call_s: Callable[[int], float], link_s: float = 0.0) -> None:
        super().__init__(ToyModel(0))
        self.now_s = 0.0
        self._call_s, self._link_s = call_s, link_s

    def start(self, prompt, wanted=LOGITS_ONLY):
        inner = super().start(prompt, wanted)
        score = inner.score

        def timed(context, draft):
            self.now_s += self._call_s(len(draft))
            return Scores(score(context, draft).logits, link_s=self._link_s)

        inner.score = timed
        return inner


def measured(target: Timed, **options) -> Block:
    clock = {"clock": lambda: target.now_s}
    return value_of(measure_block(PROMPT, target, Sampler(0.0), **clock, **options))


def test_the_baseline_is_plain_decoding_with_and_without_the_link():
    baseline = Baseline.of_blocks(measured(Timed(lambda n: 0.1, 0.05), num_calls=8))
    assert baseline.num_tokens == 8
    assert baseline.decode_s == pytest.approx(0.8)
    assert baseline.tokens_per_s == pytest.approx(10)
    assert baseline.tokens_per_s_without_link == pytest.approx(20)
    assert baseline.added_s == ()


def test_wider_calls_are_timed_after_single_ones_the_link_apart():
    in_fours = Timed(lambda n: 0.05 + 0.1 * (1 + n // 4), 0.05)
    baseline = Baseline.of_blocks(measured(in_fours, num_calls=8, widths=(3, 8, 4)))
    assert baseline.num_tokens == 8
    three, four, eight = baseline.added_s
    assert three == (3, pytest.approx(0.0))
    assert four == (4, pytest.approx(0.1))
    assert eight == (8, pytest.approx(0.2))


def test_a_slow_target_is_not_asked_for_every_width():
    block = measured(Timed(lambda n: 0.7), widths=(3, 7, 4))
    assert len(block.calls_s) == MIN_BLOCK_CALLS
    assert [one.num_drafted for one in block.wide] == [3, 7]


def test_what_a_width_adds_is_told_beside_the_calls_of_its_own_block():
    slow_moment, quick_moment = Timed(lambda n: 0.3 + 0.03 * n), Timed(lambda n: 0.1 + 0.01 * n)
    blocks = measured(slow_moment), measured(quick_moment, widths=(5,))
    baseline = Baseline.of_blocks(*blocks)
    assert baseline.computing_s == pytest.approx(0.1)  # most calls
    assert baseline.added_s == ((5, pytest.approx(0.05)),)


def test_a_baseline_of_a_failing_target_raises_what_failed():
    class Failing(Timed):
        def start(self, prompt, wanted=LOGITS_ONLY):
            inner = super().start(prompt, wanted)
            score = inner.score

            def failing(context, draft):
                if len(context) > len(PROMPT) + 2:
                    raise TargetError("The server went away; start it again.")
                return score(context, draft)

            inner.score = failing
            return inner

    with pytest.raises(TargetError, match="went away"):
        measured(Failing(lambda n: 0.1))
