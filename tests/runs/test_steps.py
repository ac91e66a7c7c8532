"""The stopwatch over what comes before the first token."""

from __future__ import annotations

from specdec.runs.steps import Step, Steps, Taken
from specdec.view.steps import steps_html, steps_words


class Clock:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


def at(clock, now_s, *changes):
    clock.now_s = now_s
    for change in changes:
        change()


def test_a_step_ends_where_the_next_begins_and_one_that_comes_again_goes_on():
    clock = Clock()
    steps = Steps(clock)
    assert steps.taken == ()
    at(clock, 1.0, lambda: steps.begin(Step.FETCH))
    at(clock, 3.0, lambda: steps.begin(Step.LOAD))
    at(clock, 3.5, lambda: steps.begin(Step.LOAD))
    at(clock, 4.0, lambda: steps.begin(Step.COMPILE))
    at(clock, 5.0, lambda: steps.begin(Step.LOAD))  # the draft's
    at(clock, 5.5)
    assert steps.taken == (
        Taken(Step.FETCH, 2.0, False),
        Taken(Step.LOAD, 1.5, True),
        Taken(Step.COMPILE, 1.0, False),
    )
    assert not steps.has_ended
    at(clock, 6.0, steps.end)
    at(clock, 9.0, lambda: steps.begin(Step.READ))  # of the block after the run
    assert steps.has_ended
    assert [one.seconds for one in steps.taken] == [2.0, 2.0, 1.0]
    assert not any(one.is_present for one in steps.taken)


def test_the_line_tells_what_was_done_and_counts_what_goes_on():
    taken = (
        Taken(Step.LOAD, 1.26, False),
        Taken(Step.COMPILE, 0.01, False),
        Taken(Step.READ, 0.04, True),
    )
    assert steps_words(taken) == "✓ load the weights 1.3 s · read the prompt: 0.0 s so far"
    assert steps_html(taken).count("<span>") == 2
    assert steps_words(()) == ""
